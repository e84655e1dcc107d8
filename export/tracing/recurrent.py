"""Trace the recurrent layers of a transformers decoder to the ops of `edgekiln.export.recurrent_ops`.

The mixers of transformers (Mamba, linear attention, short convolutions) call functions of their modeling file by name
and keep their states in a `Cache`. Inside `canonical_recurrence` these names are our functions, which emit one op each,
and models get a `TraceCache`. So a mixer is supported by the functions that it calls, whatever model it is part of.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from edgekiln.errors import UnsupportedModelError
from edgekiln.export import recurrent_ops
from edgekiln.export.recurrent_ops import UpdateRule
from edgekiln.export.tracing.cache_trace import StateShape, current

# Values of config.layer_types for layers without any cache.
_STATELESS: Final = {"mlp", "moe"}


def stateless(config: Any, layer: int) -> bool:
    """Whether a layer mixes no tokens by its type, so that it needs no cache."""
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

    def has_previous_state(self, layer_idx: int | None = None, *_: Any) -> bool:
        """True in the trace, so that mixers continue from the state that our functions take from the trace."""
        if layer_idx is not None:
            current().layer = layer_idx
        return current().past is not None

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The new keys and values: the attention function adds those of the past."""
        return key, value

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


def _mask_padding(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    position_ids = current().position_ids
    return hidden_states if position_ids is None else recurrent_ops.mask_padding(hidden_states, position_ids)


def causal_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> torch.Tensor:
    """The convolution of the current layer over x [B, C, S] with weight [C, K]; returns [B, C, S]."""
    trace = current()
    kind: dict[str | None, recurrent_ops.Activation] = {None: "none", "silu": "silu", "swish": "silu"}
    if activation not in kind:
        raise UnsupportedModelError(f"a convolution with the activation {activation} is not supported yet")
    past = trace.next_past(trace.layer, StateShape((x.shape[1], weight.shape[-1] - 1)))
    if past is None:
        return x
    out, present = recurrent_ops.causal_conv(x, weight, bias, *past, activation=kind[activation])
    trace.add_present(trace.layer, present)
    return out


def linear_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    decay: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    *,
    rule: UpdateRule,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear attention of the current layer; arguments as in `recurrent_ops.linear_attention`."""
    trace = current()
    sizes = (value.shape[2], key.shape[3], value.shape[3])
    past = trace.next_past(trace.layer, StateShape(sizes))
    if past is None:
        return torch.empty_like(value), value.new_empty(value.shape[0], *sizes)
    out, present = recurrent_ops.linear_attention(query, key, value, *past, decay, beta, rule=rule, scale=scale)
    trace.add_present(trace.layer, present)
    return out, present


def _l2_normalized(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt((x * x).sum(dim=-1, keepdim=True) + 1e-6)


def _gated_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    *_: Any,
    use_qk_l2norm_in_kernel: bool = False,
    **__: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gated DeltaNet, and Kimi delta attention, whose decay g has an axis more."""
    scale = query.shape[-1] ** -0.5
    if use_qk_l2norm_in_kernel:
        query, key = _l2_normalized(query), _l2_normalized(key)
    return linear_attention(query, key, value, g, beta, rule="gated_delta", scale=scale)


def _mamba2_scan(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,  # noqa: N803 - the names are transformers'
    B: torch.Tensor,  # noqa: N803
    C: torch.Tensor,  # noqa: N803
    *_: Any,
    D: torch.Tensor | None = None,  # noqa: N803
    z: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **__: Any,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """The scan of Mamba-2, which is gated linear attention of values dt · x with decay dt · A."""
    if dt_bias is not None:
        dt = dt + dt_bias
    if dt_softplus:
        dt = F.softplus(dt)
    dt = dt.clamp(*dt_limit)
    out, state = linear_attention(C, B, hidden_states * dt[..., None], dt * A, rule="gated", scale=1.0)
    if D is not None:
        out = out + hidden_states * D[..., None]
    if z is not None:
        out = out * F.silu(z)
    return (out, state) if return_final_states else out


def _mamba_scan(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,  # noqa: N803
    B: torch.Tensor,  # noqa: N803
    C: torch.Tensor,  # noqa: N803
    D: torch.Tensor | None = None,  # noqa: N803
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """The scan of Mamba."""
    if delta_bias is not None:
        dt = dt + delta_bias[..., None]
    if delta_softplus:
        dt = F.softplus(dt)
    trace = current()
    past = trace.next_past(trace.layer, StateShape(tuple(A.shape)))
    if past is None:
        out, state = torch.empty_like(hidden_states), A.new_empty(hidden_states.shape[0], *A.shape)
    else:
        out, state = recurrent_ops.selective_scan(hidden_states, dt, A, B, C, *past)
        trace.add_present(trace.layer, state)
    if D is not None:
        out = out + hidden_states * D[:, None]
    if z is not None:
        out = out * F.silu(z)
    return (out, state) if return_last_state else out


# Name in a modeling file of transformers -> our function.
_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "apply_mask_to_padding_states": _mask_padding,
    "causal_conv1d_fn": causal_conv,
    "torch_chunk_gated_delta_rule": _gated_delta_rule,
    "chunk_kimi_delta_attention": _gated_delta_rule,
    "mamba2_chunk_scan": _mamba2_scan,
    "mamba_selective_scan": _mamba_scan,
}


def has_states(model: PreTrainedModel) -> bool:
    """Whether layers of `model` may keep states that we know."""
    return bool(_replaceable(model))


def _replaceable(model: PreTrainedModel) -> list[tuple[ModuleType, str]]:
    """The functions that the modeling files of `model` define and we replace."""
    files = {type(module).__module__: sys.modules[type(module).__module__] for module in model.modules()}
    return [(file, name) for file in files.values() for name in _FUNCTIONS if hasattr(file, name)]


@contextlib.contextmanager
def canonical_recurrence(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block the recurrent layers of `model` call our functions."""
    originals = [(file, name, getattr(file, name)) for file, name in _replaceable(model)]
    try:
        for file, name, _ in originals:
            setattr(file, name, _FUNCTIONS[name])
        yield
    finally:
        for file, name, function in originals:
            setattr(file, name, function)
