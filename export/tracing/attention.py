"""Trace the attention of a transformers decoder to `edgekiln::Attention`.

transformers calls attention and mask functions that are registered by name. Ours emit one canonical op a layer. The
mask function builds no mask: it returns a `MaskSpec`, so that a sliding window is the one that the model asked for and
not guessed from its config.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from edgekiln.errors import UnsupportedModelError
from edgekiln.export import canonical
from edgekiln.export.tracing.cache_trace import KeyValueShape, current

IMPLEMENTATION = "edgekiln"


@dataclass(frozen=True)
class MaskSpec:
    """A causal mask in place of the mask tensor; `window` as in `canonical.attention`."""

    window: int | None


# Arguments of an attention call that change its result and that the canonical op does not have.
_UNSUPPORTED_ARGUMENTS = {"s_aux": "attention sinks", "head_mask": "head masks", "position_bias": "a position bias"}


def _mask(
    *,
    mask_function: Callable[..., torch.Tensor],
    local_size: int | None = None,
    use_vmap: bool = False,
    config: Any,
    **_: Any,
) -> MaskSpec:
    """The mask function for transformers: describes the mask instead of building it."""
    if use_vmap:
        raise UnsupportedModelError(
            f"{config.model_type} overlays its own attention mask, which edgekiln does not support yet"
        )
    if local_size is not None and local_size == getattr(config, "attention_chunk_size", None):
        raise UnsupportedModelError(f"{config.model_type} uses chunked attention, which edgekiln does not support yet")
    # Only in the forward that records shapes: under torch.export tensors have no values.
    if current().past is None and _sees_the_next_token(mask_function):
        raise UnsupportedModelError(
            f"{config.model_type} attends in both directions, which a causal decoder graph cannot express"
        )
    return MaskSpec(local_size)


def _sees_the_next_token(mask_function: Callable[..., torch.Tensor]) -> bool:
    zero, one = torch.tensor(0), torch.tensor(1)
    return bool(mask_function(zero, zero, zero, one))


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: MaskSpec | torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function for transformers; shapes as in `canonical.attention`, returns [B, S, H, D]."""
    trace = current()
    model_type = module.config.model_type
    for name, description in _UNSUPPORTED_ARGUMENTS.items():
        if kwargs.get(name) is not None:
            raise UnsupportedModelError(f"{model_type} uses {description}, which edgekiln does not support yet")
    if not isinstance(mask, MaskSpec):
        raise UnsupportedModelError(
            f"{model_type} builds its own attention mask (ALiBi, for one), which edgekiln does not support yet"
        )
    if key.shape[-1] != value.shape[-1]:
        raise UnsupportedModelError(
            f"{model_type} has keys of {key.shape[-1]} and values of {value.shape[-1]} elements a head "
            "(latent attention), which edgekiln does not support yet"
        )
    # A module that several layers share says its layer to the cache only.
    layer: int = module.layer_idx if trace.attention_layer is None else trace.attention_layer
    trace.attention_layer = None
    past = trace.next_past(layer, KeyValueShape(key.shape[1], key.shape[-1]))
    if past is None:
        return query.transpose(1, 2), None
    past_key, past_value = past
    assert trace.start is not None
    out, present_key, present_value = canonical.attention(
        query,
        key,
        value,
        past_key,
        past_value,
        trace.start,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=mask.window,
        softcap=softcap,
    )
    trace.add_present(layer, present_key, present_value)
    return out, None


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _mask)
