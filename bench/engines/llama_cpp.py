"""llama.cpp: a GGUF file through llama-cpp-python."""

import ctypes
import time
from collections.abc import Sequence

import llama_cpp
import numpy as np
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from numpy.typing import NDArray

from bench.engines.serve import Answer, Request, serve

BATCH = 512  # tokens of a physical batch
ANSWER_CONTEXT = 2048


class CountingLookup(LlamaPromptLookupDecoding):
    """The package's prompt lookup with its default n-gram size, counting drafted tokens."""

    drafted = 0

    def __call__(self, input_ids: NDArray[np.intc], /, **kwargs: object) -> NDArray[np.intc]:
        """Draft tokens int32[D] for int32[S] ids."""
        draft = super().__call__(input_ids, **kwargs)
        self.drafted += len(draft)
        return draft


class Llama:
    """Timed through the C API (llama_decode, argmax by numpy); answers through the loop of the Python package."""

    def __init__(self, path: str, threads: int, lookup: bool) -> None:
        self._path, self._lookup = path, CountingLookup() if lookup else None
        self._chat: llama_cpp.Llama | None = None
        self._runs = 0
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._threads = threads

    def _context(self, batch: int, length: int) -> llama_cpp.llama_context_p:
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = batch * -(-length // 256) * 256
        settings.n_batch = settings.n_ubatch = BATCH
        settings.n_seq_max = batch
        settings.n_threads = settings.n_threads_batch = self._threads
        settings.no_perf = True
        return llama_cpp.llama_init_from_model(self._model, settings)

    def _decode(self, context: llama_cpp.llama_context_p, entries: list[tuple[int, int, int, bool]]) -> None:
        """Decode at most BATCH entries of (token, position, sequence, whether logits are needed)."""
        batch = llama_cpp.llama_batch_init(len(entries), 0, 1)
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        if llama_cpp.llama_decode(context, batch):
            raise SystemExit("llama_decode failed")
        llama_cpp.llama_batch_free(batch)

    def _logits(self, context: llama_cpp.llama_context_p, index: int) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits_ith(context, index)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (self._vocab_size,))

    def generate(self, prompts: NDArray[np.int64], count: int) -> Sequence[float]:
        """Prefill prompt by prompt in physical batches, then decode one token of every sequence a step."""
        batch, length = prompts.shape
        context = self._context(batch, length + count)
        tokens = [0] * batch
        for sequence, prompt in enumerate(prompts.tolist()):
            entries = [(token, i, sequence, i == length - 1) for i, token in enumerate(prompt)]
            for start in range(0, length, BATCH):
                self._decode(context, entries[start : start + BATCH])
            tokens[sequence] = int(self._logits(context, -1).argmax())
        times = [time.perf_counter()]
        for position in range(length, length + count - 1):
            self._decode(context, [(token, position, sequence, True) for sequence, token in enumerate(tokens)])
            tokens = [int(self._logits(context, sequence).argmax()) for sequence in range(batch)]
            times.append(time.perf_counter())
        llama_cpp.llama_free(context)
        return times

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """One forward pass of at most BATCH tokens."""
        context = self._context(1, tokens.size)
        self._decode(context, [(token, i, 0, True) for i, token in enumerate(tokens.tolist())])
        logits = np.stack([self._logits(context, i).copy() for i in range(tokens.size)])
        llama_cpp.llama_free(context)
        return logits

    def answer(self, request: Request) -> Answer:
        """Greedy: temperature 0. With prompt lookup the loop needs the logits of every position."""
        if self._chat is None:
            self._chat = self._open_chat()
        self._runs = 0
        if self._lookup:
            self._lookup.drafted, self._lookup.num_pred_tokens = 0, request.draft_tokens
        ids: list[int] = []
        times: list[float] = []
        for token in self._chat.generate(request.prompt.tolist(), temp=0.0):
            ids.append(token)
            times.append(time.perf_counter())
            if token in request.eos or len(ids) == request.max_tokens:
                break
        drafted = self._lookup.drafted if self._lookup else 0
        return Answer(ids, times[-1] - times[0], self._runs - 1, drafted)

    def _open_chat(self) -> llama_cpp.Llama:
        """The package's own loop, with forward passes counted in `_runs`."""
        chat = llama_cpp.Llama(
            self._path,
            n_ctx=ANSWER_CONTEXT,
            n_threads=self._threads,
            n_threads_batch=self._threads,
            flash_attn=True,
            logits_all=self._lookup is not None,
            draft_model=self._lookup,
            verbose=False,
        )
        run = chat.eval

        def counted(tokens: list[int]) -> None:
            self._runs += 1
            run(tokens)

        chat.eval = counted
        return chat


if __name__ == "__main__":
    serve(Llama)
