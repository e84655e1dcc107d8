"""KV caches in device memory, one class per layout: updated in place, or copied from one buffer to another.

The C++ library runs only growing caches, with a batch size of 1.
"""

from edgekiln.runtimes.cuda.device import Buffer, Device
from edgekiln.runtimes.kv_cache import RaggedKVCache
from edgekiln.runtimes.properties import Properties
from edgekiln.runtimes.tensorrt.profiles import CachePart, check_alignment
from edgekiln.runtimes.tensorrt.states import TensorRTStates

PURPOSE = "the cache of keys and values"


def _states(properties: Properties, device: Device, batch_size: int) -> TensorRTStates | None:
    return TensorRTStates(properties.states, device, batch_size) if properties.states else None


class InPlaceKVCache(RaggedKVCache):
    """Keys and values that a run updates in place: the buffer of a part, [B, KV, max_length, D], is past and present.

    The batch is the outermost axis: one sequence is a contiguous slice and can be prefilled separately.

    Attributes:
        parts: keys and values of each layer.
        itemsize: bytes of an element.
        buffers: one per part; empty until the first tokens are appended.
    """

    def __init__(
        self, properties: Properties, parts: list[CachePart], itemsize: int, device: Device, batch_size: int
    ) -> None:
        self.states: TensorRTStates | None
        super().__init__(properties, batch_size, _states(properties, device, batch_size))
        if batch_size > 1:
            check_alignment(parts, properties.max_length, itemsize)
        self.parts = parts
        self.itemsize = itemsize
        self.buffers: list[Buffer] = []
        self._device = device

    def shape(self, part: CachePart) -> tuple[int, int, int, int]:
        """Shape of a part's buffer, (B, KV, capacity, D)."""
        return self.batch_size, part.heads, self.capacity, part.head_dim

    def _swap(self, first: int, second: int) -> None:
        for part, buffer in zip(self.parts, self.buffers, strict=True):
            size = part.heads * self.capacity * part.head_dim * self.itemsize
            kept = self._device.allocate(size, PURPOSE)
            one, other = buffer.address + first * size, buffer.address + second * size
            for target, source in ((kept.address, one), (one, other), (other, kept.address)):
                self._device.copy_2d((target, size), (source, size), size, 1)
            self._device.synchronize()  # the copies read what is freed here

    def _copy(self, source: int, target: int, length: int) -> None:
        for part, buffer in zip(self.parts, self.buffers, strict=True):
            width, pitch = length * part.head_dim * self.itemsize, self.capacity * part.head_dim * self.itemsize
            one, other = (buffer.address + sequence * part.heads * pitch for sequence in (source, target))
            self._device.copy_2d((other, pitch), (one, pitch), width, part.heads)

    def _next_capacity(self, length: int, limit: int) -> int:
        return limit

    def _grow(self, capacity: int, used: int) -> None:
        sizes = [self.batch_size * part.heads * capacity * part.head_dim * self.itemsize for part in self.parts]
        buffers = [self._device.allocate(size, PURPOSE) for size in sizes]
        for buffer in buffers:
            # Attention also reads the unused positions; its additive mask removes any finite value, but not NaN.
            self._device.zero(buffer)
        self.buffers = buffers


class DoubleBuffer:
    """Double-buffered keys and values of one sequence.

    A run reads the front buffers and writes the old and new tokens to the back buffers. Deliberately independent of
    the cache that it belongs to, so that a binding does not keep the cache alive.

    Attributes:
        front: one buffer per part, dense [1, KV, length, D].
        back: buffers of the same size for the result of the next run.
        length: tokens in the front buffers.
    """

    def __init__(self, parts: list[CachePart], itemsize: int, device: Device) -> None:
        self.front: list[Buffer] = []
        self.back: list[Buffer] = []
        self.length = 0
        self._token_sizes = [part.head_dim * itemsize for part in parts]
        self._heads = [part.heads for part in parts]
        self._device = device

    def swap(self, length: int) -> None:
        """Make the back buffers, which hold `length` tokens, the front buffers."""
        self.front, self.back = self.back, self.front
        self.length = length

    def truncate(self, length: int) -> None:
        """Keep only the first `length` tokens."""
        if length == self.length:
            return
        if length:
            for index, (token, heads) in enumerate(zip(self._token_sizes, self._heads, strict=True)):
                source = self.front[index].address, self.length * token
                target = self.back[index].address, length * token
                self._device.copy_2d(target, source, length * token, heads)
        self.swap(length)

    def copy(self, source: "DoubleBuffer") -> None:
        """Hold the tokens of a sequence with buffers of the same size."""
        for index, (token, heads) in enumerate(zip(self._token_sizes, self._heads, strict=True)):
            size = source.length * token * heads
            if size:
                self._device.copy_2d((self.front[index].address, size), (source.front[index].address, size), size, 1)
        self.length = source.length

    def grow(self, capacity: int) -> None:
        """Reallocate both buffers of every part for `capacity` tokens."""
        sizes = [token * heads for token, heads in zip(self._token_sizes, self._heads, strict=True)]
        for index, size in enumerate(sizes):
            # Part by part, so that at most one part is in memory twice.
            larger = self._device.allocate(capacity * size, PURPOSE)
            if self.length:
                used = self.length * size
                self._device.copy_2d((larger.address, used), (self.front[index].address, used), used, 1)
                # The copy reads the old buffer, which the next line frees.
                self._device.synchronize()
            self.front[index : index + 1] = [larger]
            self.back[index : index + 1] = [self._device.allocate(capacity * size, PURPOSE)]


class GrowingKVCache(RaggedKVCache):
    """Keys and values in double buffers, one pair per sequence and part: twice the memory of an in-place cache.

    Attributes:
        sequences: the buffers of each sequence.
    """

    def __init__(
        self, properties: Properties, parts: list[CachePart], itemsize: int, device: Device, batch_size: int
    ) -> None:
        self.states: TensorRTStates | None
        super().__init__(properties, batch_size, _states(properties, device, batch_size))
        self.sequences = [DoubleBuffer(parts, itemsize, device) for _ in range(batch_size)]

    def _swap(self, first: int, second: int) -> None:
        sequences = self.sequences
        sequences[first], sequences[second] = sequences[second], sequences[first]
        self.decode_bindings.clear()
        self.verify_bindings.clear()

    def _copy(self, source: int, target: int, length: int) -> None:
        self.sequences[source].truncate(int(self.lengths[source]))
        self.sequences[target].copy(self.sequences[source])

    def _grow(self, capacity: int, used: int) -> None:
        for buffers, length in zip(self.sequences, self.lengths, strict=True):
            buffers.truncate(int(length))
            buffers.grow(capacity)
