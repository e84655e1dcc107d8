"""OpenVINO GenAI: LLMPipeline over an exported directory or a GGUF."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino
import openvino_genai
from numpy.typing import NDArray
from serve import serve


class OpenVino:
    """A pipeline, timed through its own loop; scored as the bare graph with the same settings."""

    def __init__(self, path: str, threads: int) -> None:
        self._path, self._settings = Path(path), {"INFERENCE_NUM_THREADS": threads}
        self._pipeline = openvino_genai.LLMPipeline(path, "CPU", **self._settings)

    def generate(self, prompts: NDArray[np.int64], count: int) -> Sequence[float]:
        """Its loop takes the times itself, the same for one row and many."""
        config = openvino_genai.GenerationConfig()
        config.do_sample, config.ignore_eos = False, True
        config.max_new_tokens = config.min_new_tokens = count
        config.apply_chat_template = False
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(prompts), openvino.Tensor(np.ones_like(prompts)))
        start = time.perf_counter()
        raw = self._pipeline.generate(inputs, config).perf_metrics.raw_metrics
        # Microseconds, and a step's are divided by the rows.
        steps = np.asarray(raw.m_durations) / 1e6 * len(prompts)
        first = float(raw.m_times_to_first_token[0]) / 1e6
        return (start + first + np.concatenate([[0.0], np.cumsum(steps[-(count - 1) :])])).tolist()

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of every position in one pass over a fresh state."""
        model = openvino.Core().compile_model(self._path / "openvino_model.xml", "CPU", self._settings)
        feeds = {
            "input_ids": tokens[None],
            "attention_mask": np.ones((1, tokens.size), np.int64),
            "position_ids": np.arange(tokens.size)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        logits: NDArray[np.float32] = model.create_infer_request().infer(feeds)["logits"][0]
        return logits


if __name__ == "__main__":
    serve(OpenVino)
