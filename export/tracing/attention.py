"""Trace the attention of a transformers decoder to `edgekiln::Attention`.

transformers calls attention and mask functions that are registered by name. Ours emit one canonical op a layer. The
mask function builds no mask: it returns a `MaskSpec`, so that a sliding window is the one that the model asked for and
not guessed from its config.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn.functional import pad
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from edgekiln.errors import UnsupportedModelError
from edgekiln.export import canonical
from edgekiln.export.tracing.cache_trace import KeyValueShape, current
from edgekiln.export.tracing.latent_attention import LatentProjection

IMPLEMENTATION = "edgekiln"
# A bias of keys is one more element of them; ONNX Runtime's attention takes head sizes that are multiples of 8.
_BIAS_ELEMENTS = 8


@dataclass(frozen=True)
class MaskSpec:
    """A mask in place of the mask tensor: causal, with `window` and `chunk` as in `canonical.attention`.

    `bidirectional` masks let tokens see later ones, which is refused where they are used: decoders that may have an
    encoder make one for attention to it.
    """

    window: int | None = None
    chunk: int | None = None
    bidirectional: bool = False

    # Falcon adds ALiBi to a mask of 4 dimensions.
    ndim: ClassVar[int] = 0
    # Qwen4 combines a mask of numbers with the choice of an indexer in another way.
    dtype: ClassVar[torch.dtype] = torch.bool

    def to(self, *_: Any) -> "MaskSpec":
        """MPT converts its mask."""
        return self

    def __getitem__(self, _: Any) -> "MaskSpec":
        """Attention with an indexer slices the mask for it."""
        return self

    def __and__(self, choice: None) -> "MaskSpec":
        """With the choice of an indexer, see `sparse_attention.EveryKey`."""
        return self


# Arguments of an attention call that change its result and that the canonical op does not have.
_UNSUPPORTED_ARGUMENTS = {
    "head_mask": "head masks",
    "position_bias": "a position bias",
    "indices": "attention to keys that an indexer chooses",
    "block_indices": "attention to blocks of keys that an indexer chooses",
}


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
    # transformers has one argument for both; a model with chunks has no sliding window.
    if local_size is not None and local_size == getattr(config, "attention_chunk_size", None):
        return MaskSpec(chunk=local_size)
    # Only in the forward that records shapes: under torch.export tensors have no values.
    return MaskSpec(window=local_size, bidirectional=current().past is None and _sees_the_next_token(mask_function))


def _sees_the_next_token(mask_function: Callable[..., torch.Tensor]) -> bool:
    zero, one = torch.tensor(0), torch.tensor(1)
    return bool(mask_function(zero, zero, zero, one))


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: MaskSpec | torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function for transformers; shapes as in `canonical.attention`, returns [B, S, H, D]."""
    for name, description in _UNSUPPORTED_ARGUMENTS.items():
        if kwargs.get(name) is not None:
            raise UnsupportedModelError(
                f"{module.config.model_type} uses {description}, which edgekiln does not support yet"
            )
    if not isinstance(attention_mask, MaskSpec):
        raise UnsupportedModelError(
            f"{module.config.model_type} builds its own attention mask, which edgekiln does not support yet"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(module, query, key, value, attention_mask, scale=scale, softcap=softcap, sinks=s_aux), None


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: MaskSpec,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    slopes: torch.Tensor | None = None,
    bfloat16_alibi: bool = False,
    key_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Trace one attention.

    Args:
        module: the attention module; its `layer_idx` numbers the KV cache.
        query: [B, H, S, D].
        key: [B, KV, S, D].
        value: [B, KV, S, V]; the canonical op and its cache have one head size, so that the narrower of keys and values
            is padded with zeros.
        mask: which keys a query sees.
        scale, softcap, sinks, slopes, bfloat16_alibi: as in `canonical.attention`.
        key_bias: [B, KV, S], added to the scaled scores of each key, for which head sizes grow by `_BIAS_ELEMENTS`.

    Returns:
        [B, S, H, V].
    """
    if mask.bidirectional:
        raise UnsupportedModelError(
            f"{module.config.model_type} attends in both directions, which a causal decoder graph cannot express"
        )
    trace = current()
    width = value.shape[-1]
    projection = getattr(module, "kv_b_proj", None)
    if isinstance(projection, LatentProjection):
        query = projection.latent_query(query)
    if key_bias is not None:
        key = pad(torch.cat([key, key_bias.unsqueeze(-1)], dim=-1), (0, _BIAS_ELEMENTS - 1))
        query = pad(pad(query, (0, 1), value=1.0 / scale), (0, _BIAS_ELEMENTS - 1))
    head_dim = max(key.shape[-1], width)
    query, key, value = (_padded(part, head_dim) for part in (query, key, value))
    # A module that several layers share says its layer to the cache only.
    layer: int = module.layer_idx if trace.attention_layer is None else trace.attention_layer
    trace.attention_layer = None
    past = trace.next_past(layer, KeyValueShape(key.shape[1], head_dim))
    if past is None:
        return _values(query.transpose(1, 2), width, projection)
    past_key, past_value = past
    assert trace.start is not None
    out, present_key, present_value = canonical.attention(
        query,
        key,
        value,
        past_key,
        past_value,
        trace.start,
        sinks,
        slopes,
        scale=scale,
        window=mask.window,
        chunk=mask.chunk,
        softcap=softcap,
        bfloat16_alibi=bfloat16_alibi,
    )
    trace.add_present(layer, present_key, present_value)
    return _values(out, width, projection)


def _padded(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Zeros added to the heads of x [B, H, S, D]. A Pad of none would keep lowerings from fusing what it is between."""
    return x if x.shape[-1] == head_dim else pad(x, (0, head_dim - x.shape[-1]))


def _values(out: torch.Tensor, width: int, projection: Any) -> torch.Tensor:
    """The values in out [B, S, H, D]: without padding, and not latent."""
    out = out[..., :width] if width < out.shape[-1] else out
    return projection.value_of(out) if isinstance(projection, LatentProjection) else out


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _mask)
