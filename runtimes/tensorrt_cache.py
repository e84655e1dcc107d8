"""Keys and values in device memory, of either kind: updated in place, or growing from one buffer to another."""

from dataclasses import dataclass

from edgekiln.runtimes.base import Properties
from edgekiln.runtimes.device import Buffer, Device
from edgekiln.runtimes.ragged import RaggedRows
from edgekiln.runtimes.tensorrt_plan import CachePart, check_rows_are_aligned

WHAT = "the cache of keys and values"


class InPlaceCache(RaggedRows):
    """Rows of a fixed capacity in one buffer [B, KV, C, D] a part, which is past and present at once.

    The batch is outermost, so one row is a contiguous slice and can be prefilled alone.
    """

    def __init__(
        self, properties: Properties, parts: list[CachePart], itemsize: int, device: Device, batch_size: int
    ) -> None:
        super().__init__(properties, batch_size)
        if batch_size > 1:
            check_rows_are_aligned(parts, properties.max_length, itemsize)
        self.parts = parts
        self.itemsize = itemsize
        self.buffers: list[Buffer] = []
        self._device = device

    def shape(self, part: CachePart) -> tuple[int, int, int, int]:
        """Of a part's buffer."""
        return self.batch_size, part.heads, self.capacity, part.head_dim

    def _larger(self, length: int, limit: int) -> int:
        return limit

    def _grow(self, capacity: int, held: int) -> None:
        for part in self.parts:
            size = self.batch_size * part.heads * capacity * part.head_dim * self.itemsize
            self.buffers.append(self._device.allocate(size, WHAT))
            # Slots that no row holds are masked by adding to their scores, which only finite numbers survive.
            self._device.zero(self.buffers[-1])


@dataclass
class GrowingRow:
    """One row: its `front` buffers hold the first `slots` tokens as dense [1, KV, slots, D], `back` takes the next."""

    front: list[Buffer]
    back: list[Buffer]
    slots: int = 0

    def turn(self, slots: int) -> None:
        """The back, which holds `slots` tokens, becomes the front."""
        self.front, self.back = self.back, self.front
        self.slots = slots


class GrowingCache(RaggedRows):
    """Rows in two dense buffers a part, of which a run reads one and fills the other; twice the memory of in place."""

    def __init__(
        self, properties: Properties, parts: list[CachePart], itemsize: int, device: Device, batch_size: int
    ) -> None:
        super().__init__(properties, batch_size)
        self.parts = parts
        self.itemsize = itemsize
        self.rows: list[GrowingRow] = [GrowingRow([], []) for _ in range(batch_size)]
        self._device = device

    def settled(self, row: int) -> GrowingRow:
        """The row without the tokens that it was made to forget."""
        state, length = self.rows[row], int(self.lengths[row])
        if state.slots != length:
            if length:
                for part, front, back in zip(self.parts, state.front, state.back, strict=True):
                    token = part.head_dim * self.itemsize
                    source, target = (front.address, state.slots * token), (back.address, length * token)
                    self._device.copy_rows(target, source, length * token, part.heads)
            state.turn(length)
        return state

    def _grow(self, capacity: int, held: int) -> None:
        for row, state in enumerate(self.rows):
            state = self.settled(row) if state.front else state  # noqa: PLW2901 - the same object, settled
            for index, part in enumerate(self.parts):
                token = part.heads * part.head_dim * self.itemsize
                # One part at a time, so that old and new are both there for one part only.
                larger = self._device.allocate(capacity * token, WHAT)
                if state.slots:
                    size = state.slots * token
                    self._device.copy_rows((larger.address, size), (state.front[index].address, size), size, 1)
                    # The copy reads a buffer that is about to be freed.
                    self._device.synchronize()
                second = self._device.allocate(capacity * token, WHAT)
                state.front[index : index + 1], state.back[index : index + 1] = [larger], [second]
