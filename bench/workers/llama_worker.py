"""llama.cpp: a GGUF through the C API of llama-cpp-python."""

import ctypes
import time
from collections.abc import Sequence

import llama_cpp
import numpy as np
from numpy.typing import NDArray
from serve import serve

BATCH = 512  # tokens of a physical batch


class Llama:
    """A model, timed through llama_decode with the largest logit taken by numpy; rows are sequences of one batch."""

    def __init__(self, path: str, threads: int) -> None:
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._threads = threads

    def _context(self, rows: int, length: int) -> llama_cpp.llama_context_p:
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = rows * -(-length // 256) * 256
        settings.n_batch = settings.n_ubatch = BATCH
        settings.n_seq_max = rows
        settings.n_threads = settings.n_threads_batch = self._threads
        settings.no_perf = True
        return llama_cpp.llama_init_from_model(self._model, settings)

    def _decode(self, context: llama_cpp.llama_context_p, pieces: list[tuple[int, int, int, bool]]) -> None:
        """Compute (token, position, row, wants logits) of at most BATCH."""
        batch = llama_cpp.llama_batch_init(len(pieces), 0, 1)
        batch.n_tokens = len(pieces)
        for i, (token, position, row, wanted) in enumerate(pieces):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
        if llama_cpp.llama_decode(context, batch):
            raise SystemExit("llama_decode failed")
        llama_cpp.llama_batch_free(batch)

    def _logits(self, context: llama_cpp.llama_context_p, index: int) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits_ith(context, index)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (self._vocab_size,))

    def generate(self, prompts: NDArray[np.int64], count: int) -> Sequence[float]:
        """Prompts in physical batches, then one token of every row at a time."""
        rows, length = prompts.shape
        context = self._context(rows, length + count)
        tokens = [0] * rows
        for row, prompt in enumerate(prompts.tolist()):
            pieces = [(token, i, row, i == length - 1) for i, token in enumerate(prompt)]
            for start in range(0, length, BATCH):
                self._decode(context, pieces[start : start + BATCH])
            tokens[row] = int(self._logits(context, -1).argmax())
        times = [time.perf_counter()]
        for position in range(length, length + count - 1):
            self._decode(context, [(token, position, row, True) for row, token in enumerate(tokens)])
            tokens = [int(self._logits(context, row).argmax()) for row in range(rows)]
            times.append(time.perf_counter())
        llama_cpp.llama_free(context)
        return times

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """At most BATCH tokens in one batch."""
        context = self._context(1, tokens.size)
        self._decode(context, [(token, i, 0, True) for i, token in enumerate(tokens.tolist())])
        logits = np.stack([self._logits(context, i).copy() for i in range(tokens.size)])
        llama_cpp.llama_free(context)
        return logits


if __name__ == "__main__":
    serve(Llama)
