"""Forwards in place of those of recurrent modules that compute their recurrence by themselves.

`edgekiln.export.tracing.recurrent` replaces functions that many mixers call. The modules here have their loops inside
`forward`; they are known by the names of their classes.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from edgekiln.export import recurrent_ops
from edgekiln.export.tracing.cache_trace import StateShape, current
from edgekiln.export.tracing.recurrent_functions import causal_conv, linear_attention, mask_padding

_KEY_OF_PADDING: Final = -6e4  # its exponential is 0; float16 holds it


def _lightning_attention(
    self: Any, hidden_states: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Lightning attention of MiniMax: linear attention whose decay is a constant of the head."""
    batch, length = hidden_states.shape[:2]
    qkv = mask_padding(self.act_fn(self.qkv_proj(hidden_states)))
    query, key, value = qkv.reshape(batch, length, self.num_attention_heads, -1).split(self.head_dim, dim=3)
    decay = -self.slope_rate.flatten().to(value.dtype).expand(batch, length, -1)
    out = linear_attention(query, key, value, decay, rule="gated", scale=1.0)[0]
    out = self.norm(out.reshape(batch, length, -1))
    return self.out_proj(F.sigmoid(self.output_gate(hidden_states)) * out), None


def _gated_recurrent_unit(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    """RG-LRU of Griffin (De et al., 2024), as linear attention with one head a channel, of keys and queries 1."""
    batch, length, width = x.shape

    def gate(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        blocks = x.reshape(batch, length, self.num_attention_heads, 1, self.block_width)
        return torch.sigmoid((blocks @ weight + bias[:, None]).reshape(batch, length, width))

    decay = -8.0 * gate(self.recurrent_gate_weight, self.recurrent_gate_bias) * F.softplus(self.recurrent_param)
    first = (position_ids == 0)[..., None]
    factor = torch.where(first, torch.ones_like(decay), torch.sqrt(1 - torch.exp(2 * decay)))
    value = x * gate(self.input_gate_weight, self.input_gate_bias) * factor
    one = torch.ones_like(x[..., :1, None])
    out, _ = linear_attention(one, one, value[..., None], decay, rule="gated", scale=1.0)
    return out[..., 0]


def _recurrent_block(
    self: Any, input_states: torch.Tensor, position_ids: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """The recurrent block of Griffin."""
    x = mask_padding(self.linear_x(input_states)).transpose(1, 2)
    x = causal_conv(x, self.conv_1d.weight.squeeze(1), self.conv_1d.bias).transpose(1, 2)
    x = _gated_recurrent_unit(self.rg_lru, x, position_ids)
    return self.linear_out(x * self.act_fn(self.linear_y(input_states))), None


def _shifted(hidden: torch.Tensor) -> torch.Tensor:
    """Each token's predecessor [B, S, K], the last one of the past for the first token."""
    trace = current()
    past = trace.next_past(trace.layer, StateShape((hidden.shape[2],)))
    if past is None:
        return hidden
    tokens = torch.cat([past[0][:, None], hidden], dim=1)
    trace.add_present(trace.layer, tokens[:, -1])
    return tokens[:, :-1]


def _mix(hidden: torch.Tensor, shifted: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    return hidden * share + shifted * (1 - share)


def _rwkv_attention(self: Any, hidden: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
    """Time mixing of RWKV-4."""
    hidden = mask_padding(hidden)
    shifted = _shifted(hidden)
    receptance = torch.sigmoid(self.receptance(_mix(hidden, shifted, self.time_mix_receptance)))
    key = self.key(_mix(hidden, shifted, self.time_mix_key))
    key = key + (1 - mask_padding(torch.ones_like(key[..., :1]))) * _KEY_OF_PADDING
    value = self.value(_mix(hidden, shifted, self.time_mix_value))
    trace = current()
    past = trace.next_past(trace.layer, StateShape((3, key.shape[2])))
    out = value
    if past is not None:
        out, present = recurrent_ops.wkv(key, value, torch.exp(self.time_decay), self.time_first, *past)
        trace.add_present(trace.layer, present)
    return self.output(receptance * out), None


def _rwkv_feed_forward(self: Any, hidden: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
    """Channel mixing of RWKV-4."""
    hidden = mask_padding(hidden)
    shifted = _shifted(hidden)
    value = self.value(torch.square(torch.relu(self.key(_mix(hidden, shifted, self.time_mix_key)))))
    return torch.sigmoid(self.receptance(_mix(hidden, shifted, self.time_mix_receptance))) * value, None


def _convolutional_projection(self: Any, hidden: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values [B, S, heads, D] of compressed convolutional attention (ZAYA)."""
    hidden = mask_padding(hidden)
    query, key = (part(hidden).unflatten(-1, (-1, self.head_dim)) for part in (self.q_proj, self.k_proj))
    both = mask_padding(torch.cat([query, key], dim=2).flatten(2)).transpose(1, 2)
    trace = current()
    past = trace.next_past(trace.layer, StateShape((both.shape[1], self.conv_kernel_size)))
    if past is None:
        mixed = both
    else:
        columns = torch.cat([past[0], both], dim=2)
        trace.add_present(trace.layer, columns[:, :, -self.conv_kernel_size :])
        mixed = self.conv_qk_grouped(self.conv_qk_depthwise(columns))
    mixed = mixed.transpose(1, 2).unflatten(-1, (-1, self.head_dim))
    groups = self.num_key_value_groups
    query_mean = (query + key.repeat_interleave(groups, dim=2)) * 0.5
    key_mean = query_mean.unflatten(2, (-1, groups)).mean(dim=3)
    value = torch.cat([self.v_proj_current(hidden), self.v_proj_delayed(_shifted(hidden))], dim=-1)
    heads = self.num_attention_heads
    return mixed[:, :, :heads] + query_mean, mixed[:, :, heads:] + key_mean, value.unflatten(-1, (-1, self.head_dim))


# End of a class name -> the forward of its modules.
FORWARDS: Final[dict[str, Callable[..., Any]]] = {
    "LightningAttention": _lightning_attention,
    "RecurrentBlock": _recurrent_block,
    "RwkvSelfAttention": _rwkv_attention,
    "RwkvFeedForward": _rwkv_feed_forward,
    "CCAProjection": _convolutional_projection,
}


def replaced_forwards(model: PreTrainedModel) -> list[tuple[torch.nn.Module, Callable[..., Any]]]:
    """The modules of `model` whose forward is one of ours, and that forward, which tells the trace its layer."""
    return [
        (module, _in_layer(_layer_of(name), forward, module))
        for name, module in model.named_modules()
        for ending, forward in FORWARDS.items()
        if type(module).__name__.endswith(ending)
    ]


def _layer_of(name: str) -> int:
    """3 of "model.layers.3.temporal_block"."""
    return next(int(part) for part in name.split(".") if part.isdigit())


def _in_layer(layer: int, forward: Callable[..., Any], module: torch.nn.Module) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        current().layer = layer
        return forward(module, *args, **kwargs)

    return call
