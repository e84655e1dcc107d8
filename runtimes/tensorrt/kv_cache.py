"""Keys and values in device memory, of either kind: updated in place, or growing from one buffer to another."""

from edgekiln.runtimes.base import Properties
from edgekiln.runtimes.cuda.device import Buffer, Device
from edgekiln.runtimes.kv_cache import RaggedKVCache
from edgekiln.runtimes.tensorrt.profiles import CachePart, check_rows_are_aligned

WHAT = "the cache of keys and values"


class InPlaceCache(RaggedKVCache):
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
        sizes = [self.batch_size * part.heads * capacity * part.head_dim * self.itemsize for part in self.parts]
        buffers = [self._device.allocate(size, WHAT) for size in sizes]
        for buffer in buffers:
            # Slots that no row holds are masked by adding to their scores, which only finite numbers survive.
            self._device.zero(buffer)
        self.buffers = buffers


class GrowingRow:
    """One row: its `front` buffers hold the first `slots` tokens as dense [1, KV, slots, D], `back` takes the next.

    It knows nothing of the cache it is in, so that what runs it does not keep the cache alive.
    """

    def __init__(self, parts: list[CachePart], itemsize: int, device: Device) -> None:
        self.front: list[Buffer] = []
        self.back: list[Buffer] = []
        self.slots = 0
        self._token_sizes = [part.head_dim * itemsize for part in parts]
        self._heads = [part.heads for part in parts]
        self._device = device

    def turn(self, slots: int) -> None:
        """The back, which holds `slots` tokens, becomes the front."""
        self.front, self.back = self.back, self.front
        self.slots = slots

    def settle(self, length: int) -> None:
        """Keep only the first `length` tokens, if there are more."""
        if length == self.slots:
            return
        if length:
            for index, (token, heads) in enumerate(zip(self._token_sizes, self._heads, strict=True)):
                source = self.front[index].address, self.slots * token
                target = self.back[index].address, length * token
                self._device.copy_rows(target, source, length * token, heads)
        self.turn(length)

    def grow(self, capacity: int) -> None:
        """Move to buffers for `capacity` tokens."""
        sizes = [token * heads for token, heads in zip(self._token_sizes, self._heads, strict=True)]
        for index, size in enumerate(sizes):
            # One part at a time, so that old and new are both there for one part only.
            larger = self._device.allocate(capacity * size, WHAT)
            if self.slots:
                held = self.slots * size
                self._device.copy_rows((larger.address, held), (self.front[index].address, held), held, 1)
                # The copy reads a buffer that is about to be freed.
                self._device.synchronize()
            self.front[index : index + 1] = [larger]
            self.back[index : index + 1] = [self._device.allocate(capacity * size, WHAT)]


class GrowingCache(RaggedKVCache):
    """Rows in two dense buffers a part, of which a run reads one and fills the other; twice the memory of in place."""

    def __init__(
        self, properties: Properties, parts: list[CachePart], itemsize: int, device: Device, batch_size: int
    ) -> None:
        super().__init__(properties, batch_size)
        self.rows = [GrowingRow(parts, itemsize, device) for _ in range(batch_size)]

    def _grow(self, capacity: int, held: int) -> None:
        for row, length in zip(self.rows, self.lengths, strict=True):
            row.settle(int(length))
            row.grow(capacity)
