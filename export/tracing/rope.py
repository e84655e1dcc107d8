"""RoPE frequencies that depend on the length of a sequence.

transformers recomputes the frequencies of two types of RoPE in each forward. `longrope` has other ones in sequences
longer than `original_max_position_embeddings`: a graph chooses between them by the length of each sequence, and
runtimes compute the keys of a sequence again when it becomes longer. `dynamic` (NTK) changes them in sequences longer
than `max_position_embeddings`, which engines do not hold, so a graph has constant ones.
"""

import inspect
from functools import partial
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from edgekiln.errors import UnsupportedModelError
from edgekiln.export import canonical
from edgekiln.export.tracing.cache_trace import current
from edgekiln.sources.rope_parameters import rope_parameters, rope_types

_LENGTH_DEPENDENT = ("dynamic", "longrope")
# Types that some families compute in their own modules.
_OF_FAMILIES = ("default", "axial", "mrope")
# Families that attend to a part of the keys from a length on, and the name of that length.
_KEPT_KEYS = {"doge": "keep_window_size"}


def check_rope(config: PretrainedConfig) -> None:
    """Check that the types of RoPE of a configuration can be traced.

    Raises:
        UnsupportedModelError: transformers does not know one.
    """
    for kind in sorted(rope_types(config)):
        if kind not in ROPE_INIT_FUNCTIONS and kind not in _OF_FAMILIES:
            known = ", ".join(sorted({*ROPE_INIT_FUNCTIONS, "default"}))
            raise UnsupportedModelError(
                f"{config.model_type} has positions of rope type {kind!r:.60}, which transformers does not know "
                f"(it knows {known})"
            )


def check_length(config: PretrainedConfig, max_length: int, *, by_length: bool) -> None:
    """Check that the graph of a model is exact up to `max_length` tokens.

    Args:
        config: the model's.
        max_length: tokens of a sequence, at most.
        by_length: the target's graphs know the length of a sequence.

    Raises:
        UnsupportedModelError: its RoPE frequencies, or the keys that it attends to, change at a shorter length, which
            the message names; or as `check_rope`.
    """
    check_rope(config)
    keys = getattr(config, _KEPT_KEYS.get(config.model_type, ""), None)
    if isinstance(keys, int) and max_length > keys:
        raise UnsupportedModelError(
            f"{config.model_type} attends to the {keys} keys of the largest bias in longer sequences: "
            f"build an engine of at most --max-length {keys}"
        )
    for parameters in () if by_length else rope_parameters(config):
        limit = parameters.get("original_max_position_embeddings")
        if parameters.get("rope_type") == "longrope" and isinstance(limit, int) and max_length > limit:
            raise UnsupportedModelError(
                f"{config.model_type} has positions of rope type longrope, which change beyond {limit} tokens: "
                f"build an engine of at most --max-length {limit}, or for ort-cpu"
            )


def fix_frequencies(model: torch.nn.Module) -> None:
    """Let the rotary modules of a model compute what the graph computes.

    Those of type longrope choose frequencies for each sequence, by its length. Others keep the frequencies that they
    have now, instead of computing them in each forward.
    """
    for module in model.modules():
        rotary: Any = module
        kind = getattr(rotary, "rope_type", None)
        if isinstance(kind, str):
            if kind == "longrope" and rotary.config.model_type == "phimoe":
                rotary.forward = partial(_phimoe, rotary)
            elif kind == "longrope":
                _follow_length(rotary, None)
            rotary.rope_type = _fixed(kind)
        elif isinstance(kind, dict):
            for layer in (layer for layer, value in kind.items() if value == "longrope"):
                _follow_length(rotary, layer)
            rotary.rope_type = {layer: _fixed(value) for layer, value in kind.items()}


def _fixed(kind: str) -> str:
    return "default" if kind in _LENGTH_DEPENDENT else kind


class _FrequenciesOfRows:
    """Frequencies [B, 1, D] in place of [D], which transformers multiplies by positions [B, S, 1].

    Up to 5.17 it makes [1, D, 1] of them first, for a product with positions [B, 1, S].
    """

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        return getattr(self._values, name)

    def __getitem__(self, index: Any) -> torch.Tensor:
        assert index == (None, slice(None), None)
        return self._values.transpose(1, 2)


class _ChosenFrequencies:
    """A rotary module with other values of some attributes."""

    def __init__(self, module: torch.nn.Module, values: dict[str, _FrequenciesOfRows]) -> None:
        self._module = module
        self._values = values

    def __getattr__(self, name: str) -> Any:
        return self._values[name] if name in self._values else getattr(self._module, name)


def _phimoe(module: Any, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """PhimoeRotaryEmbedding.forward: frequencies are those of short sequences, and the factor depends on the length."""
    parameters = module.config.rope_parameters
    scales = [torch.tensor(float(parameters[name])) for name in ("short_mscale", "long_mscale")]
    scale = scales[0]
    if current().position_ids is not None:
        limit = parameters["original_max_position_embeddings"]
        is_long = (canonical.sequence_length(position_ids, limit) > limit)[:, None, None]
        scale = torch.where(is_long, scales[1], scales[0])
    phases = position_ids[..., None].float() * module.inv_freq
    angles = torch.cat([phases, phases], dim=-1)
    return (angles.cos() * scale).to(hidden_states.dtype), (angles.sin() * scale).to(hidden_states.dtype)


def _follow_length(module: Any, layer_type: str | None) -> None:
    """Make a longrope module choose its frequencies as transformers does for a batch of one sequence."""
    config, prefix = module.config, "" if layer_type is None else f"{layer_type}_"
    parameters = config.rope_parameters if layer_type is None else config.rope_parameters[layer_type]
    limit: int = parameters["original_max_position_embeddings"]
    frequencies, of_long = f"{prefix}inv_freq", f"{prefix}long_inv_freq"
    kind = {} if layer_type is None else {"layer_type": layer_type}
    values, _ = ROPE_INIT_FUNCTIONS["longrope"](config, torch.device("cpu"), seq_len=limit + 1, **kind)
    # A buffer, so that it is where the module's other frequencies are.
    module.register_buffer(of_long, values, persistent=False)
    forward = module.forward
    # A method of the class, or of an adapter.
    plain = forward.func if isinstance(forward, partial) else inspect.unwrap(type(module).forward)

    def by_length(x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None) -> Any:
        given = {} if layer_type is None else {"layer_type": layer_type}
        if given != kind or current().position_ids is None:
            return forward(x, position_ids, **given)
        is_long = (canonical.sequence_length(position_ids, limit) > limit)[:, None, None]
        chosen = torch.where(is_long, getattr(module, of_long), getattr(module, frequencies))
        return plain(_ChosenFrequencies(module, {frequencies: _FrequenciesOfRows(chosen)}), x, position_ids, **given)

    module.forward = by_length
