"""Prompt lookup decoding (Saxena 2023): draft the tokens that followed an earlier occurrence of the last n-gram."""

from edgekiln.runtimes.base import Ids

NGRAM_SIZES = (3, 2)


class PromptLookup:
    """The tokens of a sequence, prompt and answer so far, with an index of their n-grams."""

    def __init__(self, prompt: Ids) -> None:
        """Start with int64[S] `prompt`."""
        self._tokens: list[int] = []
        # N-gram -> position after its last occurrence. The n-gram at the end of the sequence is not in it yet.
        self._continuations: dict[tuple[int, ...], int] = {}
        for token in prompt.tolist():
            self.append(token)

    def append(self, token: int) -> None:
        """Append a token to the sequence."""
        for size in NGRAM_SIZES:
            if len(self._tokens) >= size:
                self._continuations[tuple(self._tokens[-size:])] = len(self._tokens)
        self._tokens.append(token)

    def draft(self, most: int) -> list[int]:
        """Draft up to `most` tokens.

        Looks for the last earlier occurrence of the sequence's last 3 tokens, then of its last 2, and returns the
        tokens that follow it; none if there is no occurrence. The occurrence may overlap with the end of the sequence.
        """
        for size in NGRAM_SIZES:
            position = self._continuations.get(tuple(self._tokens[-size:]))
            if position is not None:
                return self._tokens[position : position + most]
        return []
