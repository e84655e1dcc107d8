"""onnxruntime-genai: a model directory of its own builder."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import onnxruntime_genai
from numpy.typing import NDArray

from bench.engines.serve import Answer, Request, serve


class Genai:
    """Timed through the Generator loop; scored with the bare graph in ONNX Runtime. It has no prompt lookup."""

    def __init__(self, path: str, threads: int, lookup: bool) -> None:
        self._path, self._threads = Path(path), threads
        settings = self._path / "genai_config.json"
        config = json.loads(settings.read_text(encoding="utf-8"))
        self._decoder = config["model"]["decoder"]
        if self._decoder["session_options"].get("intra_op_num_threads") != threads:
            self._decoder["session_options"]["intra_op_num_threads"] = threads
            settings.write_text(json.dumps(config, indent=1), encoding="utf-8")
        self._model = onnxruntime_genai.Model(path)

    def generate(self, prompts: NDArray[np.int64], count: int) -> Sequence[float]:
        """One Generator for the whole batch."""
        batch, length = prompts.shape
        parameters = onnxruntime_genai.GeneratorParams(self._model)
        total = length + count
        parameters.set_search_options(do_sample=False, batch_size=batch, min_length=total, max_length=total)
        generator = onnxruntime_genai.Generator(self._model, parameters)
        ids = np.ascontiguousarray(prompts, np.int32)
        generator.append_tokens(ids if batch > 1 else ids[0])
        times = []
        for _ in range(count):
            generator.generate_next_token()
            times.append(time.perf_counter())
        return times

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """One forward pass over an empty KV cache."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        path = self._path / self._decoder["filename"]
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        empty = np.zeros((1, self._decoder["num_key_value_heads"], 0, self._decoder["head_size"]), np.float32)
        names = {value.name for value in session.get_inputs()}
        feeds = {name: empty for name in names if name.startswith("past_key_values.")}
        feeds |= {"input_ids": tokens[None], "attention_mask": np.ones((1, tokens.size), np.int64)}
        if "position_ids" in names:
            feeds["position_ids"] = np.arange(tokens.size)[None]
        logits: NDArray[np.float32] = session.run(["logits"], feeds)[0][0]
        return logits

    def answer(self, request: Request) -> Answer:
        """Not measured: the package has no prompt lookup.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError


if __name__ == "__main__":
    serve(Genai)
