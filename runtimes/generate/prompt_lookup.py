"""Drafting tokens without a model: what followed the last time that the sequence read as it reads now.

Source: prompt lookup decoding (Saxena 2023).
"""

from edgekiln.runtimes.base import Ids

SIZES = (3, 2)


class PromptLookup:
    """A sequence, prompt and answer so far, that is looked up in itself."""

    def __init__(self, prompt: Ids) -> None:
        """Begin with int64[S] `prompt`."""
        self._tokens: list[int] = []
        # By the last tokens of a beginning of the sequence, how long the longest such beginning is; not the whole.
        self._lengths: dict[tuple[int, ...], int] = {}
        for token in prompt.tolist():
            self.append(token)

    def append(self, token: int) -> None:
        """Add a token."""
        for size in SIZES:
            if len(self._tokens) >= size:
                self._lengths[tuple(self._tokens[-size:])] = len(self._tokens)
        self._tokens.append(token)

    def draft(self, most: int) -> list[int]:
        """At most `most` tokens that followed the last earlier occurrence of the sequence's last 3 tokens, or else of
        its last 2; none where there is neither. The occurrence may overlap with the end, but ends before it.
        """
        for size in SIZES:
            length = self._lengths.get(tuple(self._tokens[-size:]))
            if length is not None:
                return self._tokens[length : length + most]
        return []
