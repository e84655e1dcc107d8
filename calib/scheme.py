"""What a weight is quantized to, and which scheme each kind of layer gets."""

from dataclasses import dataclass
from typing import Literal

from edgekiln.errors import RequestError, UnsupportedModelError

GROUP_SIZES = (32, 64, 128)
_EMBEDDING_GROUP = 32


@dataclass(frozen=True)
class Scheme:
    """Target of one weight [N, K].

    Attributes:
        bits: 4 or 8.
        group_size: consecutive inputs (columns) that share a scale; None is one scale an output channel (row).
        symmetric: no zero points, code 0 means 0.
        activation: how the layer's input is treated at run time.
    """

    bits: int
    group_size: int | None
    symmetric: bool
    activation: Literal["none", "int8-per-token"]


@dataclass(frozen=True)
class QuantizationOptions:
    """The user's choice; `group_size` (32, 64 or 128) is for the linear layers of int4.

    Raises:
        RequestError: an unknown quantization or group size.
    """

    quant: Literal["none", "int8", "int4"]
    group_size: int = 32

    def __post_init__(self) -> None:
        if self.quant not in ("none", "int8", "int4"):
            raise RequestError(f"quant must be none, int8 or int4, got {self.quant}")
        if self.group_size not in GROUP_SIZES:
            raise RequestError(f"group size must be 32, 64 or 128, got {self.group_size}")


def linear_scheme(options: QuantizationOptions, in_features: int) -> Scheme | None:
    """Scheme of a linear layer with `in_features` columns, None to leave it in floating point.

    int8 is symmetric per output channel with int8 activations a token; int4 is asymmetric in groups. A group size that
    does not divide `in_features` falls back to the next smaller one; compare `group_size` with the option to report it.

    Raises:
        UnsupportedModelError: no group size divides `in_features`.
    """
    if options.quant == "none":
        return None
    if options.quant == "int8":
        return Scheme(bits=8, group_size=None, symmetric=True, activation="int8-per-token")
    group_size = _dividing_group(options.group_size, in_features)
    return Scheme(bits=4, group_size=group_size, symmetric=False, activation="none")


def embedding_scheme(options: QuantizationOptions, hidden_size: int) -> Scheme | None:
    """Scheme of the embedding and of the head, tied or not: asymmetric 8 bit, whatever the linear layers get.

    Raises:
        UnsupportedModelError: no group size divides `hidden_size`.
    """
    if options.quant == "none":
        return None
    return Scheme(bits=8, group_size=_dividing_group(_EMBEDDING_GROUP, hidden_size), symmetric=False, activation="none")


def _dividing_group(wanted: int, width: int) -> int:
    for group_size in sorted(GROUP_SIZES, reverse=True):
        if group_size <= wanted and width % group_size == 0:
            return group_size
    raise UnsupportedModelError(
        f"a layer {width} wide does not divide into groups of {GROUP_SIZES[0]}: build with --quant none"
    )
