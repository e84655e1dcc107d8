"""Trace the recurrent layers of a transformers decoder to the ops of `edgekiln.export.recurrent_ops`.

The mixers of transformers (Mamba, linear attention, short convolutions) call functions of their modeling file by name
and keep their states in a `Cache`. Inside `canonical_recurrence` these names are our functions, which emit one op each,
and models get a `TraceCache`. So a mixer is supported by the functions that it calls, whatever model it is part of.
"""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from edgekiln.export.tracing.cache_trace import current
from edgekiln.export.tracing.recurrent_functions import FUNCTIONS
from edgekiln.export.tracing.recurrent_modules import replaced_forwards

# Values of config.layer_types for layers without any cache.
_STATELESS: Final = {"mlp", "moe"}


def stateless(config: Any, layer: int) -> bool:
    """Whether a layer mixes no tokens of the text by its type, so that it needs no cache."""
    if layer in (getattr(config, "cross_attention_layers", None) or ()):
        return True  # without an image it is left out
    for name in ("layers_block_type", "layer_types"):
        types = getattr(config, name, None)
        if types is not None and layer < len(types):
            return types[layer] in _STATELESS
    return False


class _LayerCache:
    """What mixers read of one layer of a cache. Our functions take the states from the trace and ignore these."""

    record_past = False

    def __init__(self) -> None:
        self.conv_states = self.recurrent_states = _Nothing()
        self.indexer_position_ids: torch.Tensor | None = None

    def get_seq_length(self) -> int:
        """As that of `TraceCache`."""
        return 0

    def get_mask_sizes(self, query_length: Any) -> tuple[Any, int]:
        """As that of `TraceCache`."""
        return query_length, 0


class _Nothing:
    def __getitem__(self, _: int) -> None:
        return None


class _LayerCaches:
    def __getitem__(self, layer: int) -> _LayerCache:
        current().layer = layer
        return _LayerCache()


class TraceCache:
    """Stands in for transformers' Cache; the states themselves are in the current `CacheTrace`."""

    layers = _LayerCaches()
    is_compileable = False

    def has_previous_state(self, layer_idx: int | None = None, *_: Any, **__: Any) -> bool:
        """True in the trace, so that mixers continue from the state that our functions take from the trace."""
        if layer_idx is not None:
            current().layer = layer_idx
        return current().past is not None

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The new keys and values: the attention function adds those of the past."""
        current().attention_layer = layer_idx
        return key, value

    def get_conv_state(self, layer_idx: int, *_: Any, **__: Any) -> None:
        """None: the function of the convolution takes the state from the trace."""
        current().layer = layer_idx

    def get_recurrent_state(self, layer_idx: int, *_: Any, **__: Any) -> None:
        """None, likewise."""
        current().layer = layer_idx

    def is_recording_past(self, *_: Any) -> bool:
        """False, as in a step of generation."""
        return False

    def update_conv_state(self, columns: torch.Tensor, layer_idx: int, *_: Any, **__: Any) -> torch.Tensor:
        """The new columns: the function of the convolution adds those of the past."""
        current().layer = layer_idx
        return columns

    def update_recurrent_state(self, state: torch.Tensor, layer_idx: int, *_: Any, **__: Any) -> torch.Tensor:
        """Nothing to do: the function that computed the state has left it in the trace."""
        return state

    def get_seq_length(self, *_: Any) -> int:
        """0: the positions are an input of the graph."""
        return 0

    def get_query_offset(self, *_: Any) -> int:
        """0, likewise."""
        return 0

    def get_mask_sizes(self, query_length: Any, *_: Any) -> tuple[Any, int]:
        """Sizes of a mask, which the trace does not build."""
        return query_length, 0


def has_states(model: PreTrainedModel) -> bool:
    """Whether layers of `model` may keep states that we know."""
    return bool(_functions(model) or replaced_forwards(model))


def _functions(model: PreTrainedModel) -> list[tuple[ModuleType, str]]:
    """The functions that the modeling files of `model` define and we replace."""
    files = {type(module).__module__: sys.modules[type(module).__module__] for module in model.modules()}
    return [(file, name) for file in files.values() for name in FUNCTIONS if hasattr(file, name)]


@contextlib.contextmanager
def canonical_recurrence(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block the recurrent layers of `model` compute by our functions."""
    originals = [(file, name, getattr(file, name)) for file, name in _functions(model)]
    forwards = replaced_forwards(model)
    rescaled = getattr(model.config, "rescale_every", None)  # RWKV halves weights against the overflow of float16
    try:
        for file, name, _ in originals:
            setattr(file, name, FUNCTIONS[name])
        for module, forward in forwards:
            module.forward = forward
        if rescaled:
            model.config.rescale_every = 0
        yield
    finally:
        for file, name, function in originals:
            setattr(file, name, function)
        for module, _ in forwards:
            del module.forward
        if rescaled:
            model.config.rescale_every = rescaled
