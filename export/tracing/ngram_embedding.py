"""Embeddings of n-grams that layers of Qwen4 add to their input (per-layer embeddings).

A layer hashes each token with its predecessors, up to the last end of a text, to rows of a table, and mixes what it
finds by a convolution. The last tokens and the last columns of the convolution are states of the layer.
"""

from typing import Any, Final

import torch
import torch.nn.functional as F

from edgekiln.export.tracing.cache_trace import StateShape, current
from edgekiln.export.tracing.recurrent_functions import causal_conv, mask_padding

# States may be float16, which has the integers up to 2048. A token is two digits, relative to the end of a text, so
# that zeros, which states begin with, are ends of texts.
_BASE: Final = 2048


def embeddings(module: Any, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """NGramEmbedding.forward: embeddings [B, S, heads of all n-grams · K] of int64 [B, S] tokens."""
    context, end = module.context_len, module.eos_token_id
    digits = mask_padding(_digits(input_ids - end))
    trace = current()
    past = trace.next_past(module.layer_idx, StateShape((context, 2)))
    previous = digits.new_zeros(digits.shape[0], context, 2) if past is None else past[0]
    history = torch.cat([previous, digits], dim=1)
    if past is not None:
        trace.add_present(module.layer_idx, history[:, -context:])
    tokens = _number(history) + end
    length = input_ids.shape[1]
    shifted = [tokens[:, context:]]
    ended = torch.zeros_like(shifted[0], dtype=torch.bool)
    for shift in range(1, module.ngram_size):
        token = tokens[:, context - shift : context - shift + length]
        ended = ended | (token == end)
        shifted.append(torch.where(ended, end, token))
    rows = []
    mixed = shifted[0] * module.layer_multipliers[0]
    for size in range(1, module.ngram_size):
        mixed = torch.bitwise_xor(mixed, shifted[size] * module.layer_multipliers[size])
        heads = slice((size - 1) * module.heads_per_ngram, size * module.heads_per_ngram)
        hashed = torch.remainder(mixed.unsqueeze(-1), module.ngram_heads_vocab_sizes[heads])
        rows.append(hashed + module.ngram_heads_offsets[heads])
    found: torch.Tensor = module.ngram_embedding(torch.cat(rows, dim=-1))
    return found.flatten(-2)


def short_convolution(module: Any, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """PLELayer._short_conv, [B, S, C] to [B, S, C]: zeros between the taps make its dilation."""
    taps = module.conv1d.weight.squeeze(1)
    spread = F.pad(taps.unsqueeze(-1), (0, module.conv1d.dilation[0] - 1)).flatten(1)
    weight = spread[:, : module.short_conv_state_len + 1]
    current().layer = module.layer_idx
    return causal_conv(mask_padding(hidden_states).transpose(1, 2), weight, activation="silu").transpose(1, 2)


def _digits(number: torch.Tensor) -> torch.Tensor:
    """The digits float [..., 2] of int64 numbers between -_BASE² / 2 and _BASE² / 2."""
    positive = torch.remainder(number, _BASE * _BASE)
    low = torch.remainder(positive, _BASE)
    return torch.stack([low, (positive - low) // _BASE], dim=-1).float()


def _number(digits: torch.Tensor) -> torch.Tensor:
    """The numbers int64 [...] of digits [..., 2]."""
    low, high = digits.to(torch.int64).unbind(-1)
    positive = low + high * _BASE
    return torch.where(positive >= _BASE * _BASE // 2, positive - _BASE * _BASE, positive)
