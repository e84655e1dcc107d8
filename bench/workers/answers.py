"""What answers one prompt to its own end, with drafted tokens that are copied from the prompt or without."""

import sys
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from serve import listen

# Argument of a worker after PATH and THREADS: load the model so that it can look drafts up.
LOOKUP = "lookup"


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        prompt: int64[P].
        most: tokens to answer at most, the ending one included.
        eos: any of these ends the answer.
        drafts: tokens that are drafted at a time where that is fixed; 0 for none.
    """

    prompt: NDArray[np.int64]
    most: int
    eos: frozenset[int]
    drafts: int


@dataclass(frozen=True)
class Answer:
    """A greedy answer.

    Attributes:
        ids: its tokens, the ending one included.
        decode_s: seconds from the first of them to the last.
        runs: of the model after the one that gave the first token.
        drafted: tokens that were drafted; None where the library does not tell.
    """

    ids: list[int]
    decode_s: float
    runs: int
    drafted: int | None


class Model(Protocol):
    """What a worker measures."""

    def answer(self, request: Request) -> Answer:
        """Answer a prompt greedily."""


def lookup() -> bool:
    """Whether the model is to be loaded so that it can look drafts up."""
    return LOOKUP in sys.argv[3:]


def _respond(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    prompt = np.array(request["prompt"], np.int64)
    answer = model.answer(Request(prompt, request["most"], frozenset(request["eos"]), request["drafts"]))
    return vars(answer)


def serve_answers(load: Any) -> None:
    """Answer until stdin ends; `load` takes the model's path and the threads."""
    listen(load, _respond)
