"""OpenVINO GenAI: answers through its pipeline, with its prompt lookup or without."""

import time

import numpy as np
import openvino
import openvino_genai
from answers import Answer, Request, lookup, serve_answers

NGRAM = 3  # as in its own sample


class Clock(openvino_genai.StreamerBase):
    """Takes the time at each run's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def write(self, token: int | list[int]) -> openvino_genai.StreamingStatus:
        """The tokens of a run."""
        self.times.append(time.perf_counter())
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Nothing is held back."""


class OpenVino:
    """A pipeline, which is told at loading whether it looks drafts up."""

    def __init__(self, path: str, threads: int) -> None:
        options = {"prompt_lookup": True} if lookup() else {}
        self._pipeline = openvino_genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads, **options)

    def answer(self, request: Request) -> Answer:
        """It does not tell what it drafted."""
        config = openvino_genai.GenerationConfig()
        config.do_sample, config.apply_chat_template = False, False
        config.max_new_tokens, config.stop_token_ids = request.most, set(request.eos)
        if lookup():
            config.max_ngram_size, config.num_assistant_tokens = NGRAM, request.drafts
        ids = request.prompt[None]
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        clock = Clock()
        result = self._pipeline.generate(inputs, config, clock)
        runs = len(clock.times) - 1
        return Answer(list(result.tokens[0]), clock.times[-1] - clock.times[0], runs, None if lookup() else 0)


if __name__ == "__main__":
    serve_answers(OpenVino)
