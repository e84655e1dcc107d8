"""llama.cpp: answers through llama-cpp-python's own loop, which is where its prompt lookup lives."""

import time

import llama_cpp
import numpy as np
from answers import Answer, Request, lookup, serve_answers
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from numpy.typing import NDArray

CONTEXT = 2048


class Counting(LlamaPromptLookupDecoding):
    """The package's lookup with its default n-gram size, which counts what it drafts."""

    drafted = 0

    def __call__(self, input_ids: NDArray[np.intc], /, **kwargs: object) -> NDArray[np.intc]:
        """Drafted tokens."""
        draft = super().__call__(input_ids, **kwargs)
        self.drafted += len(draft)
        return draft


class Llama:
    """A GGUF with as many logits as its loop needs: of every position where it verifies drafts."""

    def __init__(self, path: str, threads: int) -> None:
        self._draft = Counting() if lookup() else None
        self._llama = llama_cpp.Llama(
            path,
            n_ctx=CONTEXT,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=True,
            logits_all=lookup(),
            draft_model=self._draft,
            verbose=False,
        )
        self._runs = 0
        run = self._llama.eval

        def counted(tokens: list[int]) -> None:
            self._runs += 1
            run(tokens)

        self._llama.eval = counted

    def answer(self, request: Request) -> Answer:
        """Greedy is a temperature of 0."""
        self._runs = 0
        if self._draft:
            self._draft.drafted, self._draft.num_pred_tokens = 0, request.drafts
        ids: list[int] = []
        times: list[float] = []
        for token in self._llama.generate(request.prompt.tolist(), temp=0.0):
            ids.append(token)
            times.append(time.perf_counter())
            if token in request.eos or len(ids) == request.most:
                break
        drafted = self._draft.drafted if self._draft else 0
        return Answer(ids, times[-1] - times[0], self._runs - 1, drafted)


if __name__ == "__main__":
    serve_answers(Llama)
