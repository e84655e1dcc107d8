"""OpenVINO GenAI: LLMPipeline over an exported directory or a GGUF."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino
import openvino_genai
from numpy.typing import NDArray

from bench.engines.serve import Answer, Request, serve

NGRAM = 3  # max_ngram_size of the prompt lookup sample of OpenVINO GenAI


class StepTimes(openvino_genai.StreamerBase):
    """Records the time of each run."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def write(self, token: int | list[int]) -> openvino_genai.StreamingStatus:
        """Called with the tokens of one run."""
        self.times.append(time.perf_counter())
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Required by the base class."""


class OpenVino:
    """Timed through the loop of LLMPipeline; scored with the bare graph under the same settings."""

    def __init__(self, path: str, threads: int, lookup: bool) -> None:
        self._path, self._settings, self._lookup = Path(path), {"INFERENCE_NUM_THREADS": threads}, lookup
        options = {"prompt_lookup": True} if lookup else {}
        self._pipeline = openvino_genai.LLMPipeline(path, "CPU", **self._settings, **options)

    def generate(self, prompts: NDArray[np.int64], count: int) -> Sequence[float]:
        """Times come from the pipeline's perf_metrics."""
        config = openvino_genai.GenerationConfig()
        config.do_sample, config.ignore_eos = False, True
        config.max_new_tokens = config.min_new_tokens = count
        config.apply_chat_template = False
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(prompts), openvino.Tensor(np.ones_like(prompts)))
        start = time.perf_counter()
        raw = self._pipeline.generate(inputs, config).perf_metrics.raw_metrics
        # m_durations is in microseconds and, for a batch, divided by the batch size.
        steps = np.asarray(raw.m_durations) / 1e6 * len(prompts)
        first = float(raw.m_times_to_first_token[0]) / 1e6
        return (start + first + np.concatenate([[0.0], np.cumsum(steps[-(count - 1) :])])).tolist()

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """One forward pass over a fresh state."""
        model = openvino.Core().compile_model(self._path / "openvino_model.xml", "CPU", self._settings)
        feeds = {
            "input_ids": tokens[None],
            "attention_mask": np.ones((1, tokens.size), np.int64),
            "position_ids": np.arange(tokens.size)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        logits: NDArray[np.float32] = model.create_infer_request().infer(feeds)["logits"][0]
        return logits

    def answer(self, request: Request) -> Answer:
        """With prompt lookup the pipeline does not tell the number of drafted tokens."""
        config = openvino_genai.GenerationConfig()
        config.do_sample, config.apply_chat_template = False, False
        config.max_new_tokens, config.stop_token_ids = request.max_tokens, set(request.eos)
        if self._lookup:
            config.max_ngram_size, config.num_assistant_tokens = NGRAM, request.draft_tokens
        ids = request.prompt[None]
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        steps = StepTimes()
        result = self._pipeline.generate(inputs, config, steps)
        seconds = steps.times[-1] - steps.times[0]
        return Answer(list(result.tokens[0]), seconds, len(steps.times) - 1, None if self._lookup else 0)


if __name__ == "__main__":
    serve(OpenVino)
