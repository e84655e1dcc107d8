"""Window buffers, against a model that keeps the position of every slot."""

import numpy as np
import pytest

from edgekiln.runtimes.window_buffer import BLOCK, REWIND, WindowBuffer

CHUNK = 256


class Slots:
    """A buffer whose slots hold positions; `length` tokens have been appended."""

    def __init__(self, buffer: WindowBuffer) -> None:
        self.buffer = buffer
        self.slots = np.full(buffer.capacity, -1)
        self.start = self.length = 0

    def run(self, new: int) -> None:
        start = self.buffer.start_for(self.start, self.length, new)
        assert start % BLOCK == 0
        kept = self.slots[start - self.start : self.length - self.start].copy()
        self.slots[: kept.size] = kept
        self.start = start
        positions = np.arange(self.length, self.length + new)
        self.slots[positions - start] = positions  # an IndexError where there is no room
        self.length += new
        seen = np.arange(max(0, self.length - new + 1 - self.buffer.window), self.length)
        np.testing.assert_array_equal(self.slots[seen - start], seen)

    def rewind(self, length: int) -> None:
        if not self.buffer.holds(self.start, length):
            self.start = length = 0
        self.length = length


@pytest.mark.parametrize("window", [1, 8, 63, 64, 512, 2047, 4096])
@pytest.mark.parametrize("chunk", [1, CHUNK, 5000])
def test_queries_find_their_keys(window: int, chunk: int) -> None:
    slots = Slots(WindowBuffer.of(window, chunk))
    random = np.random.default_rng(window)
    for _ in range(300):
        slots.run(int(random.integers(1, chunk + 1)))
        if random.random() < 0.3:
            slots.rewind(int(random.integers(max(0, slots.length - REWIND), slots.length + 1)))
            assert slots.length > 0 or slots.start == 0
        if random.random() < 0.05:
            slots.rewind(int(random.integers(0, slots.length + 1)))


@pytest.mark.parametrize("window", [8, 512, 1024])
def test_the_last_tokens_can_always_be_dropped(window: int) -> None:
    buffer = WindowBuffer.of(window, CHUNK)
    start = 0
    moves = 0
    for length in range(10_000):
        for back in (8, REWIND):
            assert buffer.holds(start, max(0, length - back))
        following = buffer.start_for(start, length, 1)
        moves += following != start
        start = following
    assert not buffer.holds(start, start + window - 2)
    assert buffer.holds(start, start + window - 1)
    # Moves copy `window` and 512 tokens; they must be rare.
    assert moves <= 10_000 // 448


def test_sizes_are_those_of_libedgekiln() -> None:
    # cpp/tests/lib/kv_cache_test.cpp has the same.
    assert [WindowBuffer.of(*case).capacity for case in ((64, 256), (512, 256), (2047, 4096))] == [1088, 1536, 6720]
    assert WindowBuffer.of(64, 256).start_for(0, 1088, 1) == 512
    assert WindowBuffer.of(64, 256).start_for(512, 1600, 8) == 1024


@pytest.mark.parametrize(
    ("window", "layers", "windows"), [(512, 26, 22), (1024, 34, 29), (1024, 62, 52)], ids=["1b", "4b", "27b"]
)
def test_the_cache_of_gemma_3_at_32768_tokens(window: int, layers: int, windows: int) -> None:
    length, held = 32768, WindowBuffer.of(window, CHUNK).capacity
    least = windows * window + (layers - windows) * length
    assert windows * held + (layers - windows) * length <= 1.3 * least
