"""RoPE frequencies that depend on the length of a sequence, within the lengths at which they are constant.

transformers recomputes the frequencies of two types of RoPE in each forward. `dynamic` (NTK) changes them in sequences
longer than `max_position_embeddings`, `longrope` in those longer than `original_max_position_embeddings`. A graph has
constant frequencies, so it is exact up to these lengths.
"""

from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from edgekiln.errors import UnsupportedModelError
from edgekiln.sources.rope_parameters import rope_parameters, rope_types

_LENGTH_DEPENDENT = ("dynamic", "longrope")
# Types that some families compute in their own modules.
_OF_FAMILIES = ("default", "axial", "mrope")
# Families whose modules branch on the length of the sequence themselves.
_OWN_LONGROPE = ("phimoe",)

# Families that attend to a part of the keys from a length on, and the name of that length.
_KEPT_KEYS = {"doge": "keep_window_size"}


def check_rope(config: PretrainedConfig) -> None:
    """Check that the types of RoPE of a configuration can be traced.

    Raises:
        UnsupportedModelError: transformers does not know one, or the family computes one in a way of its own.
    """
    for kind in sorted(rope_types(config)):
        if kind == "longrope" and config.model_type in _OWN_LONGROPE:
            raise UnsupportedModelError(
                f"{config.model_type} scales positions of rope type longrope by the length of the sequence, which "
                "edgekiln does not support yet"
            )
        if kind not in ROPE_INIT_FUNCTIONS and kind not in _OF_FAMILIES:
            known = ", ".join(sorted({*ROPE_INIT_FUNCTIONS, "default"}))
            raise UnsupportedModelError(
                f"{config.model_type} has positions of rope type {kind!r:.60}, which transformers does not know "
                f"(it knows {known})"
            )


def check_length(config: PretrainedConfig, max_length: int) -> None:
    """Check that the graph of a model is exact up to `max_length` tokens.

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
    for parameters in rope_parameters(config):
        limit = parameters.get("original_max_position_embeddings")
        if parameters.get("rope_type") == "longrope" and isinstance(limit, int) and max_length > limit:
            raise UnsupportedModelError(
                f"{config.model_type} has positions of rope type longrope, which change beyond {limit} tokens: "
                f"build an engine of at most --max-length {limit}"
            )


def fix_frequencies(model: torch.nn.Module) -> None:
    """Keep the frequencies that the rotary modules of a model have now, instead of computing them in each forward."""
    for module in model.modules():
        rotary: Any = module
        kind = getattr(rotary, "rope_type", None)
        if isinstance(kind, str):
            rotary.rope_type = _fixed(kind)
        elif isinstance(kind, dict):
            rotary.rope_type = {layer: _fixed(value) for layer, value in kind.items()}


def _fixed(kind: str) -> str:
    return "default" if kind in _LENGTH_DEPENDENT else kind
