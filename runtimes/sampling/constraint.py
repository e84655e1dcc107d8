"""What limits the tokens of an answer, such as a compiled grammar, and the bitmasks in which it says so."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekiln.runtimes.base import Ids

# One bit a token: bit t % 32 of word t // 32 says whether token t may follow. Tokens beyond the last word may not.
Bitmask = NDArray[np.uint32]


class Constraint(Protocol):
    """A limit on answers, which any number of answers may share, from any threads."""

    def start(self) -> "ConstraintState":
        """Begin an answer.

        Raises:
            EdgekilnError: no answer is possible.
        """
        ...


class ConstraintState(Protocol):
    """The limit on one answer, after the tokens that it has so far. Of one thread at a time."""

    def allowed(self) -> Bitmask:
        """The tokens that may follow; valid until the next call of a method.

        Raises:
            EdgekilnError: it cannot be told, since the limit is too complex.
        """
        ...

    def accept(self, token: int) -> None:
        """Append a token, one that may follow.

        Raises:
            EdgekilnError: it may not follow.
        """
        ...

    @property
    def ended(self) -> bool:
        """Whether the answer is complete: nothing but an end-of-sequence token may follow, or one has."""
        ...


def allows(mask: Bitmask, token: int) -> bool:
    """Whether `token` may follow."""
    word = token >> 5
    return word < mask.size and bool(int(mask[word]) >> (token & 31) & 1)


def allowed_ids(mask: Bitmask, vocab_size: int) -> Ids:
    """Ascending ids, below `vocab_size`, of the tokens that may follow."""
    words = np.flatnonzero(mask)
    if words.size * 8 < mask.size:
        # A few tokens, as inside keywords: expanding the bits of a large vocabulary would cost more than all the rest.
        row, bit = np.nonzero(np.unpackbits(mask[words].view(np.uint8), bitorder="little").reshape(words.size, 32))
        ids: Ids = words[row] * 32 + bit
        return ids[: np.searchsorted(ids, vocab_size)]
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little", count=min(vocab_size, mask.size * 32))
    return np.flatnonzero(bits.view(np.bool_))  # of bool it is several times as fast as of uint8
