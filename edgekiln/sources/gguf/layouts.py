"""What llama.cpp's converter does to the layout of tensors, undone: rows of the table of architectures name these.

Each function takes one tensor as the file stores it, dequantized to float32 in torch's order of dimensions, and the
parsed fields of the configuration; it returns the tensor of transformers' model. None changes what a row of a weight
holds unless it says so, so that quantized weights keep their codes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Fields = Mapping[str, Any]
Undo = Callable[[Floats, Fields], Floats]
Join = Callable[[Sequence[Floats], Fields], Floats]


@dataclass(frozen=True)
class Merge:
    """A tensor of the model that the file stores in parts.

    Attributes:
        names: names in the file after "blk.N.", without ".weight" or ".bias".
        join: makes the tensor of the parts, which `layouts` have been applied to.
    """

    names: tuple[str, ...]
    join: Join


def heads_of(fields: Fields) -> int:
    """The number of attention heads, whatever the configuration calls it."""
    return int(next(fields[name] for name in ("num_attention_heads", "n_head", "n_heads") if name in fields))


def _unpermute(weight: Floats, heads: int) -> Floats:
    """Undo llama.cpp's order of the rows of a head: pairs that are rotated together become halves."""
    return weight.reshape(heads, -1, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def query(weight: Floats, fields: Fields) -> Floats:
    """Query rows of architectures whose converter orders rotated pairs next to each other."""
    return _unpermute(weight, heads_of(fields))


def key(weight: Floats, fields: Fields) -> Floats:
    """Key rows likewise."""
    return _unpermute(weight, int(fields["num_key_value_heads"]))


def minus_one(weight: Floats, _fields: Fields) -> Floats:
    """Gemma's norms multiply by 1 + weight; the file stores the sum."""
    return weight - 1


def transposed(weight: Floats, _fields: Fields) -> Floats:
    """GPT-2's Conv1D stores [K, N]."""
    return weight.T


def row(weight: Floats, _fields: Fields) -> Floats:
    """A vector that is a matrix of one row in the model."""
    return weight.reshape(1, -1)


def vector(weight: Floats, _fields: Fields) -> Floats:
    """A matrix of one column, or groups of a norm, that is a vector in the model."""
    return weight.reshape(-1)


def convolution(weight: Floats, _fields: Fields) -> Floats:
    """A depthwise convolution [C, kernel], in the model [C, 1, kernel]."""
    return weight.reshape(len(weight), 1, -1)


def log_decay(weight: Floats, _fields: Fields) -> Floats:
    """Decay rates A = -exp(A_log), of which the model has the logarithm."""
    return np.log(-weight)


def log_decay_vector(weight: Floats, _fields: Fields) -> Floats:
    """The same for one rate a head, stored as [heads, 1]."""
    return np.log(-weight).reshape(-1)


def interleaved_heads(weight: Floats, fields: Fields) -> Floats:
    """Rows [q of all heads, k, v], in the model [heads, q k v, head size] (GPT-NeoX, BLOOM)."""
    heads = heads_of(fields)
    return weight.reshape(3, heads, -1, *weight.shape[1:]).swapaxes(0, 1).reshape(weight.shape)


def _grouped_heads(weight: Floats, fields: Fields, axis: int = 0) -> Floats:
    """Value heads of linear attention from tiled order (key head varies fastest) to groups of a key head."""
    keys, values = int(fields["linear_num_key_heads"]), int(fields["linear_num_value_heads"])
    moved = np.moveaxis(weight, axis, 0)
    tiled = moved.reshape(values // keys, keys, -1, *moved.shape[1:])
    return np.moveaxis(tiled.swapaxes(0, 1).reshape(moved.shape), 0, axis)


def value_heads(weight: Floats, fields: Fields) -> Floats:
    """Qwen3.5: rows of value heads."""
    return _grouped_heads(weight, fields)


def last_value_heads(weight: Floats, fields: Fields) -> Floats:
    """Qwen3.5: rows q, k and v, of which the last are of value heads."""
    first = 2 * int(fields["linear_num_key_heads"]) * int(fields["linear_key_head_dim"])
    return np.concatenate([weight[:first], _grouped_heads(weight[first:], fields)])


def value_head_columns(weight: Floats, fields: Fields) -> Floats:
    """Qwen3.5: columns of value heads. This moves columns, so that codes are not kept."""
    return _grouped_heads(weight, fields, axis=1)


def value_head_convolution(weight: Floats, fields: Fields) -> Floats:
    """Qwen3.5: a depthwise convolution over q, k and v."""
    return convolution(last_value_heads(weight, fields), fields)


def value_head_decay(weight: Floats, fields: Fields) -> Floats:
    """Qwen3.5: decay rates of value heads."""
    return log_decay(_grouped_heads(weight, fields), fields)


def rows(parts: Sequence[Floats], _fields: Fields) -> Floats:
    """Parts one below the other, [N, K] or [N]; one part, which the `gguf` package has no name for, as it is."""
    return np.concatenate(parts)


def expert_rows(parts: Sequence[Floats], _fields: Fields) -> Floats:
    """Parts one below the other in each expert, [E, N, K]."""
    return np.concatenate(parts, axis=1)


def expert_columns(parts: Sequence[Floats], _fields: Fields) -> Floats:
    """Llama 4: parts [E, N, K] one beside the other in each expert, whose weights are [E, K, N] in the model."""
    return np.concatenate(parts, axis=1).swapaxes(1, 2)


def interleaved_experts(parts: Sequence[Floats], _fields: Fields) -> Floats:
    """gpt-oss: rows of gate and up alternate in each expert; weights are [E, K, N] in the model, biases [E, N]."""
    joined = np.stack(parts, axis=2).reshape(len(parts[0]), -1, *parts[0].shape[2:])
    return joined.swapaxes(1, 2) if joined.ndim > 2 else joined


def transposed_experts(weight: Floats, _fields: Fields) -> Floats:
    """gpt-oss, Llama 4: [E, N, K], in the model [E, K, N]; biases [E, N] are the same."""
    return weight.swapaxes(1, 2) if weight.ndim > 2 else weight


def latent_heads(parts: Sequence[Floats], _fields: Fields) -> Floats:
    """DeepSeek's kv_b_proj [heads * (nope + v), rank], of keys [heads, rank, nope] and values [heads, v, rank]."""
    keys, values = parts
    return np.concatenate([keys.swapaxes(1, 2), values], axis=1).reshape(-1, values.shape[2])


def linear_attention_heads(parts: Sequence[Floats], fields: Fields) -> Floats:
    """Qwen3-Next's in_proj_qkvz: rows q, k, v of all heads, and z of all heads, in the model by key head."""
    heads, size = int(fields["linear_num_key_heads"]), int(fields["linear_key_head_dim"])
    qkv, z = parts
    key_rows = heads * size
    sections = [qkv[:key_rows], qkv[key_rows : 2 * key_rows], qkv[2 * key_rows :], z]
    by_head = [section.reshape(heads, -1, *section.shape[1:]) for section in sections]
    return np.concatenate(by_head, axis=1).reshape(-1, *qkv.shape[1:])


def first_as_row(parts: Sequence[Floats], _fields: Fields) -> Floats:
    """A vector that is a matrix of one row in the model and that the `gguf` package has no name for."""
    return parts[0].reshape(1, -1)
