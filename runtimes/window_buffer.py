"""Window buffers: the keys and values of sliding-window layers, which hold the last tokens of a sequence only.

Slot i of a buffer holds position start + i. When new tokens have no slots, the last entries move to the front and start
advances. It stays a multiple of the 64 keys that attention processes together, so that a token's logits have the same
bits whenever its buffers moved, and with buffers of the whole context.

A buffer has the window and 1024 more slots. After a move the window and `REWIND` tokens before it are left, so that an
answer of that length can be generated again and drafts can be dropped; the other slots make moves rare. For Gemma 3 1B,
with windows of 512 tokens, this is 1.16 times the memory of bare windows in a context of 32768 tokens.

Twin of cpp/src/runtime/window_buffer.h.
"""

from dataclasses import dataclass
from typing import Final

REWIND: Final = 512  # tokens that can be dropped at any time
MOVE: Final = 512  # least number of slots for new tokens and for rounding
BLOCK: Final = 64  # keys of a block of edgekiln's decode attention


@dataclass(frozen=True)
class WindowBuffer:
    """The buffers of the layers of one window.

    Attributes:
        window: last tokens that a query sees, its own included.
        capacity: slots of a buffer, if sequences become as long.
    """

    window: int
    capacity: int

    @classmethod
    def of(cls, window: int, chunk: int = 0) -> "WindowBuffer":
        """Buffers for runs of up to `chunk` tokens."""
        slots = window + REWIND + max(MOVE, chunk + BLOCK)
        return cls(window, -(-slots // BLOCK) * BLOCK)

    def start_for(self, start: int, length: int, new: int) -> int:
        """Position of the first slot that a run needs: `start`, or a larger one if the buffers have to move.

        Args:
            start: position of the first slot.
            length: tokens of the sequence.
            new: tokens that the run appends, at most the chunk.
        """
        if length + new - start <= self.capacity:
            return start
        return (length + 1 - self.window - REWIND) // BLOCK * BLOCK

    def holds(self, start: int, length: int) -> bool:
        """Whether the buffers have all keys that the token after the first `length` sees."""
        return start == 0 or length + 1 - self.window >= start
