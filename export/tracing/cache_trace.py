"""The cache of a graph that is being traced: keys and values, recurrent states, and the tails of convolutions.

Functions that replace those of transformers (`attention`, `recurrent`) take the past of their layer from here and leave
its present here. A first forward on the meta device records the sizes only.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class KeyValueShape:
    """Sizes of a pair of key and value caches."""

    kv_heads: int
    head_dim: int

    @property
    def parts(self) -> tuple[str, ...]:
        """What the cache consists of."""
        return ("key", "value")


@dataclass(frozen=True)
class StateShape:
    """Sizes of a state that does not grow with the sequence, without the batch axis."""

    sizes: tuple[int, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """What the cache consists of."""
        return ("state",)


CacheShape = KeyValueShape | StateShape
# Past or present of one cache: key and value [B, KV, T, D], or a state [B, ...].
CacheTensors = tuple[torch.Tensor, ...]


@dataclass
class CacheTrace:
    """The caches of every layer, in the order in which the layer uses them.

    Attributes:
        past: layer -> the past of its caches; None to record shapes only.
        start: int64[B], the first slot of each sequence that is not left padding; None without keys and values.
        position_ids: int64[B, S]; None to record shapes only.
        present: layer -> the present of its caches, filled by the trace.
        shapes: layer -> their sizes, filled by the trace.
        layer: the layer that computes now, where the replaced functions of a layer are not told.
        attention_layer: the layer of the next attention; None if its module knows.
    """

    past: dict[int, list[CacheTensors]] | None = None
    start: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None
    present: dict[int, list[CacheTensors]] = field(default_factory=dict)
    shapes: dict[int, list[CacheShape]] = field(default_factory=dict)
    layer: int = -1
    attention_layer: int | None = None

    def next_past(self, layer: int, shape: CacheShape) -> CacheTensors | None:
        """Record the next cache of a layer, and return its past; None while shapes are recorded."""
        shapes = self.shapes.setdefault(layer, [])
        shapes.append(shape)
        return None if self.past is None else self.past[layer][len(shapes) - 1]

    def add_present(self, layer: int, *tensors: torch.Tensor) -> None:
        """Keep the present of the cache that `next_past` returned last for this layer."""
        self.present.setdefault(layer, []).append(tensors)


_current: ContextVar[CacheTrace] = ContextVar("cache_trace")


def current() -> CacheTrace:
    """The trace of the innermost `tracing` block."""
    return _current.get()


@contextlib.contextmanager
def tracing(trace: CacheTrace) -> Iterator[CacheTrace]:
    """Record the caches that the model uses inside the block in `trace`."""
    token = _current.set(trace)
    try:
        yield trace
    finally:
        _current.reset(token)
