"""Convert the codes, scales and zero points of checkpoint formats to `QuantizedWeight`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.scheme import GROUP_SIZES, SMALL_GROUP, Scheme
from edgekiln.calib.formats.weight import Codes, QuantizedWeight
from edgekiln.errors import SourceError, UnsupportedModelError

Floats = npt.NDArray[np.float32]


class Tensors(Protocol):
    """The tensors of a checkpoint, by name."""

    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> str: ...
    def read(self, name: str) -> torch.Tensor: ...
    def read_expert(self, name: str, index: int) -> torch.Tensor: ...


@dataclass(frozen=True)
class QuantizedLayer:
    """A quantized weight [N, K], or a stack of experts [E, N, K], that a checkpoint holds in several tensors.

    Attributes:
        parts: names of all these tensors.
        shape: its shape in the model: (N, K), (E, N, K), or (E, K, N) for experts that the model has transposed.
        weight: the weight.
        transposed: the shape is (E, K, N).
    """

    parts: tuple[str, ...]
    shape: tuple[int, ...]
    weight: PrequantizedWeight
    transposed: bool = False

    def read(self) -> Floats:
        """The floats, in the shape of the model."""
        if not self.weight.experts:
            return self.weight.read().dequantize()
        values = np.empty(self.shape, np.float32)
        for index in range(len(values)):
            values[index] = self.read_expert(index)
        return values

    def read_expert(self, index: int) -> Floats:
        """The floats of one expert of a stack."""
        values = self.weight.experts[index].read().dequantize()
        return values.T if self.transposed else values


@dataclass(frozen=True)
class DequantizedTensor:
    """A quantized tensor of a format that engines do not have: it is read as floats.

    Attributes:
        parts: names of all tensors that hold it in the checkpoint.
        shape: its shape in the model.
        form: the format, for a note.
        read: reads it, float32.
        read_expert: reads one expert of a stack; None if it is no stack.
    """

    parts: tuple[str, ...]
    shape: tuple[int, ...]
    form: str
    read: Callable[[], Floats]
    read_expert: Callable[[int], Floats] | None = None


def array(tensors: Tensors, name: str) -> npt.NDArray[Any]:
    """Read a tensor as a numpy array; every float dtype becomes float32."""
    return as_array(tensors.read(name))


def as_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A tensor as a numpy array; every float dtype becomes float32."""
    return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()


def stems(names: Iterable[str], suffix: str) -> list[str]:
    """What is before `suffix` in the names that end with it."""
    return [name.removesuffix(suffix) for name in names if name.endswith(suffix)]


def matrix_shape(tensors: Tensors, part: str, name: str) -> tuple[int, int]:
    """The shape of a tensor that must be a matrix with at least one element.

    Args:
        tensors: the checkpoint.
        part: name of the tensor.
        name: of the layer, for the error message.

    Raises:
        SourceError: it has another rank, or no element.
    """
    shape = tensors.shape(part)
    if len(shape) != 2 or 0 in shape:
        raise damaged(name, f"{part} has the shape {list(shape)}, not that of a matrix")
    return shape[0], shape[1]


def words_of(tensors: Tensors, part: str, name: str) -> npt.NDArray[np.int32]:
    """Read a tensor of packed codes.

    Raises:
        SourceError: it is not int32.
    """
    values = array(tensors, part)
    if values.dtype != np.int32:
        raise damaged(name, f"{part} is {values.dtype}, not int32")
    return values


def unpack(words: npt.NDArray[np.int32] | npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint8]:
    """Unpack int32 words [..., W], least significant bits first, to uint8 codes [..., W * 32 / bits]."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    codes = np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts & np.uint32((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(*words.shape[:-1], -1)


def engine_group(group_size: int, columns: int, bits: int, name: str) -> int:
    """The largest group size of engines that divides `group_size`; scales are then repeated.

    Args:
        group_size: the checkpoint's.
        columns: K, of which it is a divisor.
        bits: of the codes.
        name: of the layer, for the error message.

    Raises:
        UnsupportedModelError: no group size of engines divides it.
    """
    for size in sorted(GROUP_SIZES, reverse=True):
        if group_size % size == 0:
            return size
    if bits == 8 and group_size % SMALL_GROUP == 0 and columns % GROUP_SIZES[0] == 0:
        return SMALL_GROUP
    raise UnsupportedModelError(
        f"{name} is quantized in groups of {group_size}, engines have groups of {GROUP_SIZES[0]} and multiples, with 8 "
        f"bits also of {SMALL_GROUP}: give the unquantized checkpoint"
    )


@dataclass(frozen=True)
class Groups:
    """A weight [N, K] in groups along K: `scale * (code - zero_point)`.

    Attributes:
        codes: uint8 [N, K]; with act-order, in the order of the groups.
        scales: float32 [N, G].
        zero_points: uint8 [N, G]; None if all are 2^(bits - 1).
    """

    codes: npt.NDArray[np.uint8]
    scales: Floats
    zero_points: npt.NDArray[np.uint8] | None = None


def grouped(
    bits: int,
    group_size: int,
    symmetric: bool,
    read: Callable[[], Groups],
    order: npt.NDArray[np.int64] | None = None,
) -> PrequantizedWeight:
    """A group-wise quantized weight.

    Args:
        bits: 4 or 8.
        group_size: the engine's, see `engine_group`; scales and zero points of larger groups are repeated.
        symmetric: all zero points are 2^(bits - 1).
        read: reads the checkpoint's groups.
        order: the act-order permutation of the codes' columns, int64 [K]; None for the identity.
    """
    scheme = Scheme(bits, group_size, symmetric, "none", act_order=order is not None)

    def weight() -> QuantizedWeight:
        groups = read()
        return QuantizedWeight(
            scheme=scheme,
            codes=groups.codes,
            scales=_repeated(groups.scales, groups.codes, group_size),
            zero_points=None if symmetric else _repeated(groups.zero_points, groups.codes, group_size),
            relative_error=0.0,
            clipped=0.0,
            order=order,
        )

    return PrequantizedWeight(scheme, weight, order=order)


def channels(
    columns: int,
    name: str,
    read: Callable[[], tuple[npt.NDArray[np.int8], Floats]],
    input_scale: Callable[[], float] | None = None,
) -> PrequantizedWeight:
    """An int8 weight [N, K] with one scale per output channel.

    Layers with int8 activations keep it unchanged. Weight-only layers get groups that repeat the scale. Layers with
    static activation scales keep `input_scale`, if there is one.

    Args:
        columns: K.
        name: of the layer, for error messages.
        read: reads the codes, int8 [N, K], and the scales, float32 [N].
        input_scale: reads the static scale of the layer's input; None if the checkpoint has none.

    Raises:
        UnsupportedModelError: no group size of engines divides K.
    """
    scheme = Scheme(8, None, True, "int8-per-token")

    def weight() -> QuantizedWeight:
        codes, scales = read()
        return QuantizedWeight(scheme, codes, scales, None, relative_error=0.0, clipped=0.0)

    def shifted() -> Groups:
        codes, scales = read()
        return Groups(codes.view(np.uint8) ^ np.uint8(0x80), scales[:, None])

    others = [grouped(8, engine_group(columns, columns, 8, name), symmetric=True, read=shifted)]
    if input_scale is not None:
        static = replace(scheme, activation="int8-static")
        others.append(PrequantizedWeight(static, lambda: replace(weight(), scheme=static, input_scale=input_scale())))
    return PrequantizedWeight(scheme, weight, others=tuple(others))


def column_order(groups: npt.NDArray[Any], group_size: int, name: str) -> npt.NDArray[np.int64] | None:
    """The act-order permutation that makes the groups consecutive: int64 [K], or None for the identity.

    Args:
        groups: [K], the group of each input channel (GPTQ's g_idx).
        group_size: input channels per group.
        name: of the layer, for the error message.

    Raises:
        UnsupportedModelError: a group has another size.
    """
    regular = np.arange(len(groups)) // group_size
    if np.array_equal(groups, regular):
        return None
    if groups.ndim != 1 or groups.dtype.kind != "i":
        raise damaged(name, f"its groups of columns are {groups.dtype} of shape {list(groups.shape)}, not integers")
    order = np.argsort(groups, kind="stable")
    if not np.array_equal(groups[order], regular):
        raise UnsupportedModelError(
            f"{name} has groups that are not all of {group_size} columns, which engines do not support: "
            "give the unquantized checkpoint"
        )
    return order.astype(np.int64)


def damaged(name: str, why: str) -> SourceError:
    """The error for tensors that are missing or contradict each other."""
    return SourceError(f"{name} is damaged: {why}; download the checkpoint again")


def _repeated(values: npt.NDArray[Any] | None, codes: Codes, group_size: int) -> npt.NDArray[Any]:
    assert values is not None
    return np.repeat(values, codes.shape[1] // values.shape[1] // group_size, axis=1)
