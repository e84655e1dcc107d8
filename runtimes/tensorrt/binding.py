"""Bindings of a TensorRT plan to sequences of a KV cache; see `edgekiln.runtimes.kv_cache.CacheBinding`.

Ids, positions and logits are staged in page-locked host memory. The C++ counterpart is part of
runtime/tensorrt/session.h.
"""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from edgekiln.engine.graph_io import GraphIO
from edgekiln.runtimes.base import Ids, Logits
from edgekiln.runtimes.cuda.device import Array, Device
from edgekiln.runtimes.kv_cache import batch_slice
from edgekiln.runtimes.tensorrt.kv_cache import DoubleBuffer, GrowingKVCache, InPlaceKVCache
from edgekiln.runtimes.tensorrt.profiles import Shape
from edgekiln.runtimes.tensorrt.session import TensorRTSession, Tensors

_PURPOSE = "a run's inputs and outputs"


class Staging:
    """Page-locked host buffers, and device buffers of the same size, for a run's ids, positions and logits.

    Attributes:
        ids: int64[count] on the host.
        positions: int64[count] on the host.
        logits: float32[batch * vocab_size] on the host.
    """

    def __init__(self, device: Device, batch: int, count: int, vocab_size: int) -> None:
        """Allocate for up to `count` tokens per run and logits of `batch` sequences."""
        self._device = device
        sizes: list[tuple[int, Any]] = [(count, np.int64), (count, np.int64), (batch * vocab_size, np.float32)]
        self._host = [device.pinned((size,), dtype) for size, dtype in sizes]
        self._on_device = [device.allocate(pinned.array.nbytes, _PURPOSE) for pinned in self._host]
        self.ids, self.positions, self.logits = (pinned.array for pinned in self._host)

    def addresses(self, io: GraphIO) -> dict[str, int]:
        """Device addresses by the graph's names of ids, positions and logits."""
        names = (io.input_ids, io.position_ids, io.logits)
        return {name: buffer.address for name, buffer in zip(names, self._on_device, strict=True)}

    def send(self, count: int) -> None:
        """Queue: copy the first `count` ids and positions to the device."""
        for array, buffer in zip((self.ids, self.positions), self._on_device[:2], strict=True):
            self._device.copy_in(buffer.address, array[:count])

    def fetch(self, size: int) -> None:
        """Queue: copy the first `size` logits to the host."""
        self._device.copy_out(self.logits[:size], self._on_device[2].address)


class _Binding:
    """Base of the bindings: the bound host arrays, and a run on the staged values."""

    def __init__(
        self, session: TensorRTSession, cache: InPlaceKVCache | GrowingKVCache, sequences: slice, staging: Staging
    ) -> None:
        self._session = session
        self._staging = staging
        # The cache keeps the binding; without a cycle, device memory is freed with the last reference to the cache.
        self._cache = weakref.proxy(cache)
        self._states = cache.states
        self._sequences = range(*sequences.indices(cache.batch_size))
        self.input_ids: Ids = np.empty((0, 0), dtype=np.int64)
        self.position_ids: Ids = self.input_ids
        self.logits: Logits = np.empty((0, 0, 0), dtype=np.float32)

    def bind(self, input_ids: Ids, position_ids: Ids, logits: Logits) -> None:
        """Bind int64[B, S] `input_ids` and `position_ids`, and float32[B, 1, V] `logits` of the last position."""
        self.input_ids, self.position_ids, self.logits = input_ids, position_ids, logits

    def _state_tensors(self, front: int, sequences: range) -> Tensors:
        """Those of the states, for a run that reads buffer `front`; none if the engine has no states."""
        return self._states.tensors(self._session.io, front, sequences) if self._states else Tensors({}, {})

    def _run(self, ids: Ids, positions: Ids, logits: Logits, launch: Callable[[], None]) -> None:
        _stage(self._staging.ids, ids)
        _stage(self._staging.positions, positions)
        launch()
        self._session.device.synchronize()
        logits[...] = self._staging.logits[: logits.size].reshape(logits.shape)

    def _queue(self, context: Any, ids: Shape, logits: int) -> None:
        self._staging.send(ids[0] * ids[1])
        self._session.enqueue(context)
        self._staging.fetch(logits)


def _stage(staged: Array, values: Array) -> None:
    staged[: values.size] = values.reshape(-1)


class InPlaceBinding(_Binding):
    """A binding to sequences of an in-place cache.

    With CUDA graph replay it has execution contexts of its own, one for each buffer of the states that a run may read.
    Either the library captures the runs of a context, or this class captures its second run. The first run is not
    captured, because the library may still initialize something in it.
    """

    def __init__(
        self, session: TensorRTSession, cache: InPlaceKVCache, sequences: slice, staging: Staging, replay: bool
    ) -> None:
        super().__init__(session, cache, sequences, staging)
        self._addresses = staging.addresses(session.io)
        self._shapes: dict[str, Shape] = {}
        self._buffers = list(cache.buffers)
        for part, buffer in zip(cache.parts, cache.buffers, strict=True):
            address, shape = batch_slice(buffer.address, cache.shape(part), sequences, cache.itemsize)
            self._addresses |= {part.past: address, part.present: address}
            self._shapes[part.past] = tuple(shape)
        self._replay = replay
        # Front buffer of the states -> its context, and its captured run.
        self._contexts: dict[int, Any] = {}
        self._captured: dict[int, Callable[[], None]] = {}

    def run(self) -> None:
        """Run the engine on the current contents of the bound arrays."""
        launch = self._launch_replay if self._replay else self._launch
        with self._session.lock:
            front = self._cache.begin_run(self._sequences)
            self._run(self.input_ids, self.position_ids, self.logits, lambda: launch(front))

    def _launch(self, front: int) -> None:
        context = self._session.shared_context(*self.input_ids.shape)
        self._session.set_tensors(context, self._tensors(front))
        self._queue(context, self.input_ids.shape, self.logits.size)

    def _launch_replay(self, front: int) -> None:
        if captured := self._captured.get(front):
            captured()
            return
        new = front not in self._contexts
        if new:
            self._contexts[front] = self._session.replay_context(*self.input_ids.shape)
            self._session.set_tensors(self._contexts[front], self._tensors(front))

        def queue() -> None:
            self._queue(self._contexts[front], self.input_ids.shape, self.logits.size)

        if new or self._session.library.captures_by_itself:
            queue()
        else:
            self._captured[front] = self._session.device.capture(queue)
            self._captured[front]()

    def _tensors(self, front: int) -> Tensors:
        io = self._session.io
        shape = self.input_ids.shape
        states = self._state_tensors(front, self._sequences)
        addresses = self._addresses | dict(states.addresses)
        return Tensors(addresses, self._shapes | dict(states.shapes) | {io.input_ids: shape, io.position_ids: shape})


class GrowingBinding(_Binding):
    """A binding to sequences of a growing cache. Each sequence is a run, since it has its own buffers and length."""

    def __init__(self, session: TensorRTSession, cache: GrowingKVCache, sequences: slice, staging: Staging) -> None:
        super().__init__(session, cache, sequences, staging)
        self._buffers = cache.sequences[sequences]

    def run(self) -> None:
        """Run the engine on the current contents of the bound arrays, one sequence after the other."""
        with self._session.lock:
            front = self._cache.begin_run(self._sequences)
            for index, (sequence, buffers) in enumerate(zip(self._sequences, self._buffers, strict=True)):
                states = self._state_tensors(front, range(sequence, sequence + 1))
                self._run_sequence(buffers, slice(index, index + 1), states)

    def _run_sequence(self, buffers: DoubleBuffer, one: slice, states: Tensors) -> None:
        session, ids, positions, logits = self._session, self.input_ids[one], self.position_ids[one], self.logits[one]
        # The position of the first new token is the sequence's length; a rewind may have made it smaller.
        buffers.truncate(int(positions[0, 0]))
        addresses = self._staging.addresses(session.io) | dict(states.addresses)
        shapes = {session.io.input_ids: ids.shape, session.io.position_ids: ids.shape, **states.shapes}
        for part, front, back in zip(session.parts, buffers.front, buffers.back, strict=True):
            addresses |= {part.past: front.address, part.present: back.address}
            shapes[part.past] = (1, part.heads, buffers.length, part.head_dim)
        context = session.shared_context(*ids.shape)
        session.set_tensors(context, Tensors(addresses, shapes))
        self._run(ids, positions, logits, lambda: self._queue(context, ids.shape, logits.size))
        buffers.swap(buffers.length + ids.shape[1])
