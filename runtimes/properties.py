"""Sizes and limits of an engine, from its engine.json."""

import math
from dataclasses import dataclass

import numpy as np

from edgekiln.engine.manifest import LONGER_ENGINE, EngineManifest, StateSpec


@dataclass(frozen=True)
class StateProperties:
    """What a layer carries from token to token beside or instead of keys and values.

    Attributes:
        shape: sizes without the batch, which is the first axis.
        dtype: float32 or float16; uint16 for bfloat16, which numpy does not have.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, state: StateSpec) -> "StateProperties":
        """Those of a state of engine.json."""
        return cls(tuple(state.shape), np.dtype(np.uint16 if state.dtype == "bfloat16" else state.dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of one sequence."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Properties:
    """Sizes and limits of an engine.

    Attributes:
        target: name of the target, e.g. "ort-cpu".
        vocab_size: number of logits per position; token ids are below it.
        max_length: most tokens of one sequence, prompt and answer together.
        layers: number of decoder layers.
        kv_heads: key-value heads of each KV cache layer, which is a pair of caches, one for keys and one for values.
        head_dims: elements of a key-value head, of each KV cache layer.
        windows: sliding window of each KV cache layer that holds the last tokens only, 0 for the other ones; empty if
            there are none. See `edgekiln.runtimes.window_buffer`.
        states: shape without the batch, and dtype, of each state.
        recompute_beyond: a sequence that becomes longer than so many tokens, or shorter again, has other keys and
            values, and `prefill` and `step` compute all of them again; None: they stay.
        length_advice: what to do about a prompt that is too long for `max_length`, the end of a sentence.
    """

    target: str
    vocab_size: int
    max_length: int
    layers: int
    kv_heads: tuple[int, ...]
    head_dims: tuple[int, ...]
    windows: tuple[int, ...] = ()
    states: tuple["StateProperties", ...] = ()
    recompute_beyond: int | None = None
    length_advice: str = LONGER_ENGINE

    @classmethod
    def from_manifest(cls, manifest: EngineManifest) -> "Properties":
        """The properties that engine.json states."""
        architecture = manifest.architecture
        return cls(
            target=manifest.target,
            vocab_size=architecture.vocab_size,
            max_length=architecture.max_length,
            layers=architecture.layers,
            kv_heads=tuple(architecture.kv_heads),
            head_dims=tuple(architecture.head_dims),
            windows=tuple(manifest.kv_cache.windows),
            states=tuple(StateProperties.of(state) for state in manifest.kv_cache.states),
            recompute_beyond=manifest.kv_cache.recompute_beyond,
            length_advice=architecture.length_advice,
        )
