"""A session's inputs and outputs bound to rows of a cache; see `edgekiln.runtimes.kv_cache.CacheBinding`.

Ids, positions and logits pass through page-locked host arrays, at addresses that stay.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekiln.engine.manifest import GraphIO
from edgekiln.runtimes.base import Ids, Logits
from edgekiln.runtimes.cuda.device import Array, Device
from edgekiln.runtimes.kv_cache import slice_of
from edgekiln.runtimes.tensorrt.kv_cache import GrowingCache, GrowingRow, InPlaceCache
from edgekiln.runtimes.tensorrt.profiles import Shape
from edgekiln.runtimes.tensorrt.session import Bound, Session

_WHAT = "a run's inputs and outputs"


class Staging:
    """Host and device memory for ids and positions of up to `count` tokens and logits of `rows`."""

    def __init__(self, device: Device, rows: int, count: int, vocab_size: int) -> None:
        self._device = device
        self._host = [device.pinned((size,), dtype) for size, dtype in _sizes(rows, count, vocab_size)]
        self._on_device = [device.allocate(pinned.array.nbytes, _WHAT) for pinned in self._host]
        self.ids, self.positions, self.logits = (pinned.array for pinned in self._host)

    def addresses(self, io: GraphIO) -> dict[str, int]:
        """Where the graph finds and leaves them."""
        names = (io.input_ids, io.position_ids, io.logits)
        return {name: buffer.address for name, buffer in zip(names, self._on_device, strict=True)}

    def send(self, count: int) -> None:
        """Queue: the first `count` ids and positions go to the device."""
        for array, buffer in zip((self.ids, self.positions), self._on_device[:2], strict=True):
            self._device.copy_in(buffer.address, array[:count])

    def fetch(self, size: int) -> None:
        """Queue: the first `size` logits come back."""
        self._device.copy_out(self.logits[:size], self._on_device[2].address)


def _sizes(rows: int, count: int, vocab_size: int) -> list[tuple[int, Any]]:
    return [(count, np.int64), (count, np.int64), (rows * vocab_size, np.float32)]


class _Binding:
    """What both kinds of cache have: arrays on the host, and one run of the engine on what is staged."""

    def __init__(self, session: Session, staging: Staging) -> None:
        self._session = session
        self._staging = staging
        self.input_ids: Ids = np.empty((0, 0), dtype=np.int64)
        self.position_ids: Ids = self.input_ids
        self.logits: Logits = np.empty((0, 0, 0), dtype=np.float32)

    def bind(self, input_ids: Ids, position_ids: Ids, logits: Logits) -> None:
        """Read from int64[B, S] `input_ids` and `position_ids`, write to float32[B, 1, V] `logits`."""
        self.input_ids, self.position_ids, self.logits = input_ids, position_ids, logits

    def _run(self, ids: Ids, positions: Ids, logits: Logits, launch: Callable[[], None]) -> None:
        _fill(self._staging.ids, ids)
        _fill(self._staging.positions, positions)
        launch()
        self._session.device.synchronize()
        logits[...] = self._staging.logits[: logits.size].reshape(logits.shape)

    def _launch(self, context: Any, ids: Shape, logits: int) -> None:
        self._staging.send(ids[0] * ids[1])
        self._session.enqueue(context)
        self._staging.fetch(logits)


def _fill(staged: Array, values: Array) -> None:
    staged[: values.size] = values.reshape(-1)


class InPlaceBinding(_Binding):
    """Rows of an in-place cache.

    Replayed, it has a context of its own, which is bound once: the library records its runs, or the second run is
    recorded here. The first is not, since a library may still prepare something in it.
    """

    def __init__(self, session: Session, cache: InPlaceCache, rows: slice, staging: Staging, replayed: bool) -> None:
        super().__init__(session, staging)
        self._addresses = staging.addresses(session.io)
        self._shapes: dict[str, Shape] = {}
        self._buffers = list(cache.buffers)
        for part, buffer in zip(cache.parts, cache.buffers, strict=True):
            address, shape = slice_of(buffer.address, cache.shape(part), rows, cache.itemsize)
            self._addresses |= {part.past: address, part.present: address}
            self._shapes[part.past] = tuple(shape)
        self._replayed = replayed
        self._context: Any = None
        self._recorded: Callable[[], None] | None = None

    def run(self) -> None:
        """Run the engine on what the bound arrays hold now."""
        with self._session.lock:
            self._run(self.input_ids, self.position_ids, self.logits, self._replay if self._replayed else self._plain)

    def _plain(self) -> None:
        context = self._session.context(*self.input_ids.shape)
        self._session.bind(context, self._bound())
        self._launch(context, self.input_ids.shape, self.logits.size)

    def _replay(self) -> None:
        if self._recorded is not None:
            self._recorded()
            return

        def launch() -> None:
            self._launch(self._context, self.input_ids.shape, self.logits.size)

        if self._context is None:
            self._context = self._session.own_context(*self.input_ids.shape)
            self._session.bind(self._context, self._bound())
            launch()
        elif self._session.library.records_by_itself:
            launch()
        else:
            self._recorded = self._session.device.record(launch)
            self._recorded()

    def _bound(self) -> Bound:
        io = self._session.io
        shape = self.input_ids.shape
        return Bound(self._addresses, self._shapes | {io.input_ids: shape, io.position_ids: shape})


class GrowingBinding(_Binding):
    """Rows of a growing cache, each by itself: they have buffers and lengths of their own."""

    def __init__(self, session: Session, cache: GrowingCache, rows: slice, staging: Staging) -> None:
        super().__init__(session, staging)
        self._rows = cache.rows[rows]

    def run(self) -> None:
        """Run the engine on what the bound arrays hold now, row after row."""
        with self._session.lock:
            for index, row in enumerate(self._rows):
                self._run_row(row, slice(index, index + 1))

    def _run_row(self, row: GrowingRow, one: slice) -> None:
        session, ids, positions, logits = self._session, self.input_ids[one], self.position_ids[one], self.logits[one]
        # The first new token's position is how many the row holds.
        row.settle(int(positions[0, 0]))
        addresses = self._staging.addresses(session.io)
        shapes: dict[str, Shape] = {session.io.input_ids: ids.shape, session.io.position_ids: ids.shape}
        for part, front, back in zip(session.parts, row.front, row.back, strict=True):
            addresses |= {part.past: front.address, part.present: back.address}
            shapes[part.past] = (1, part.heads, row.slots, part.head_dim)
        context = session.context(*ids.shape)
        session.bind(context, Bound(addresses, shapes))
        self._run(ids, positions, logits, lambda: self._launch(context, ids.shape, logits.size))
        row.turn(row.slots + ids.shape[1])
