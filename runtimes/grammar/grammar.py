"""A compiled grammar, and its state in an answer."""

from typing import TYPE_CHECKING

import numpy as np

from edgekiln.errors import EdgekilnError, first_line
from edgekiln.runtimes.grammar.number_limit import NumberLength, NumberLimit
from edgekiln.runtimes.sampling.constraint import Bitmask

if TYPE_CHECKING:
    from llguidance import LLMatcher

_NONE_FITS = "no token of the engine continues the text as the grammar asks: give another grammar"
_DEAD_ENDS = ("NoExtension", "NoExtensionBias")


def mask_words(vocab_size: int, eos: bool) -> int:
    """Words of the masks of a vocabulary with end-of-sequence tokens or without."""
    return (vocab_size + (not eos) + 31) // 32


class Grammar:
    """A grammar for the vocabulary of a tokenizer: a `Constraint`, for any number of answers."""

    def __init__(self, matcher: "LLMatcher", vocab_size: int, eos: bool, numbers: NumberLimit | None = None) -> None:
        """Begin answers where `matcher` stands.

        Args:
            matcher: at the beginning of the grammar.
            vocab_size: of the tokenizer.
            eos: the tokenizer has end-of-sequence tokens.
            numbers: the limit on numbers; None where they have none.
        """
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._eos = eos
        self._numbers = numbers

    def start(self) -> "GrammarState":
        """Begin an answer."""
        return GrammarState(self._matcher.deep_copy(), self._vocab_size, self._eos, self._numbers)


class GrammarState:
    """The state of a grammar in one answer: a `ConstraintState`."""

    def __init__(self, matcher: "LLMatcher", vocab_size: int, eos: bool, numbers: NumberLimit | None) -> None:
        self._matcher = matcher
        self._numbers = None if numbers is None else NumberLength(numbers)
        # llguidance takes an id after the last one for the end of a sequence where there is none.
        self._mask: Bitmask = np.zeros(mask_words(vocab_size, eos), dtype=np.uint32)
        self._absent = None if eos else vocab_size
        self._pointer = self._mask.ctypes.data

    def allowed(self) -> Bitmask:
        """The tokens that may follow; end-of-sequence tokens where the text is complete.

        Raises:
            EdgekilnError: no token fits, or the grammar is too complex.
        """
        self._matcher.unsafe_compute_mask_ptr(self._pointer, self._mask.nbytes)
        if self._matcher.is_stopped() and not self._matcher.is_accepting():
            reason = self._reason()
            raise EdgekilnError(_NONE_FITS if reason in _DEAD_ENDS else f"the grammar failed ({reason}): simplify it")
        if self._absent is not None:
            self._mask[self._absent // 32] &= ~np.uint32(1 << self._absent % 32)
        if self._numbers is not None:
            self._numbers.limit(self._mask)
        return self._mask

    def accept(self, token: int) -> None:
        """Append a token.

        Raises:
            EdgekilnError: it may not follow.
        """
        if not self._matcher.consume_token(token) and self._matcher.is_error():
            raise EdgekilnError(f"the grammar does not allow token {token} ({self._reason()})")
        if self._numbers is not None:
            self._numbers.accept(token)

    @property
    def ended(self) -> bool:
        """Whether nothing but an end-of-sequence token may follow, or one has."""
        return self._matcher.is_stopped()

    def _reason(self) -> str:
        return first_line(ValueError(self._matcher.get_error()))[:200]
