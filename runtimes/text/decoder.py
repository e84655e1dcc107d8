"""Streams through the decoder of tokenizer.json: token strings in, text out, one token at a time.

`tokenizers` decodes whole lists of tokens only.
"""

import functools
import json
from collections.abc import Iterable, Iterator

from tokenizers import decoders

from edgekiln.runtimes.text.decode_steps import (
    JOINS,
    TEXT_STEPS,
    TOKEN_STEPS,
    Component,
    SpaceBetween,
    Step,
    Whole,
    byte_level,
    byte_of,
    whole_text,
)

# Tokens around the one whose text between others is looked for. They differ, since CTC drops repetitions.
_BEFORE, _AFTER = "\x01", "\x02"


class DecodeStream:
    """Decodes one sequence. The texts of `push` and `flush` together are `decode` of all tokens."""

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps

    def push(self, token: str) -> str:
        """Add a token; returns the text that no later token can change."""
        items: Iterable[str] = (token,)
        for step in self._steps:
            items = [out for item in items for out in step.push(item)]
        return "".join(items)

    def flush(self) -> str:
        """The remaining text, at the end of the sequence."""
        items: list[str] = []
        for step in self._steps:
            items = [*(out for item in items for out in step.push(item)), *step.flush()]
        return "".join(items)


class Decoder:
    """The decoder of a tokenizer.

    Args:
        library: the decoder of `tokenizers`; None joins tokens with spaces.
    """

    def __init__(self, library: decoders.Decoder | None) -> None:
        self._library = library
        self._components = [] if library is None else list(_flat(json.loads(library.__getstate__())))
        self._types = {component["type"] for component in self._components}

    def stream(self) -> DecodeStream:
        """A stream for one sequence."""
        if self._library is None:
            return DecodeStream([SpaceBetween()])
        if not self._types <= TOKEN_STEPS.keys():
            return DecodeStream([Whole(self._library)])
        steps: list[Step] = []
        joined = False
        for component in self._components:
            table = TEXT_STEPS if joined else TOKEN_STEPS
            steps.append(table.get(component["type"], whole_text)(component))
            joined = joined or component["type"] in JOINS
        return DecodeStream(steps)

    def token_bytes(self, token: str) -> bytes:
        """What a token adds between others, before bytes that are not UTF-8 are replaced.

        These are the bytes in which `StopStringCriteria` of transformers looks for stop strings.
        """
        if "ByteFallback" in self._types and (byte := byte_of(token)) is not None:
            return bytes([byte])
        if "ByteLevel" in self._types:
            return byte_level(token)
        if self._library is None:
            return f" {token}".encode()
        before, after = self._surroundings
        return self._library.decode([_BEFORE, token, _AFTER]).removeprefix(before).removesuffix(after).encode()

    @functools.cached_property
    def _surroundings(self) -> tuple[str, str]:
        assert self._library is not None
        before = self._library.decode([_BEFORE])
        return before, self._library.decode([_BEFORE, _AFTER]).removeprefix(before)


def _flat(component: Component) -> Iterator[Component]:
    if component["type"] != "Sequence":
        yield component
        return
    for inner in component["decoders"]:
        yield from _flat(inner)
