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


def rows(parts: Sequence[Floats], _fields: Fields) -> Floats:
    """Parts one below the other, [N, K] or [N]."""
    return np.concatenate(parts)


def expert_rows(parts: Sequence[Floats], _fields: Fields) -> Floats:
    """Parts one below the other in each expert, [E, N, K]."""
    return np.concatenate(parts, axis=1)


def interleaved_experts(parts: Sequence[Floats], _fields: Fields) -> Floats:
    """gpt-oss: rows of gate and up alternate in each expert; weights are [E, K, N] in the model, biases [E, N]."""
    joined = np.stack(parts, axis=2).reshape(len(parts[0]), -1, *parts[0].shape[2:])
    return joined.swapaxes(1, 2) if joined.ndim > 2 else joined


def transposed_experts(weight: Floats, _fields: Fields) -> Floats:
    """gpt-oss: [E, N, K], in the model [E, K, N]; biases [E, N] are the same."""
    return weight.swapaxes(1, 2) if weight.ndim > 2 else weight


def first(parts: Sequence[Floats], _fields: Fields) -> Floats:
    """A tensor that the `gguf` package has no name for, stored as it is."""
    return parts[0]
