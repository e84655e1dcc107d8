"""Quantization schemes: the number format of a weight and of its layer's activations."""

from dataclasses import dataclass

from edgekiln.engine.reports import Activation, Codebook
from edgekiln.errors import UnsupportedModelError

GROUP_SIZES = (32, 64, 128)
# Of 8-bit weights of checkpoints only: kernels read more bytes of scales. K must be a multiple of 32 nevertheless.
SMALL_GROUP = 16
EMBEDDING_GROUP = 32


@dataclass(frozen=True)
class Scheme:
    """Scheme of one weight [N, K].

    Attributes:
        bits: bits of a code, 4 or 8.
        group_size: consecutive input channels that share a scale; None is one scale per output channel.
        symmetric: there are no zero points; the middle code means 0.
        activation: the layer's input at run time: "none" is float, "int8-per-token" has one scale per token, and
            "int8-static" has one scale for all tokens, found on calibration data.
        group_bias: a float bias is added to each group's weights.
        act_order: groups are of permuted input channels; the layer's input is permuted at run time.
        codebook: table of the values of the codes; None where values are equally spaced.
    """

    bits: int
    group_size: int | None
    symmetric: bool
    activation: Activation
    group_bias: bool = False
    act_order: bool = False
    codebook: Codebook | None = None


def dividing_group(wanted: int, width: int) -> int:
    """The largest group size that is at most `wanted` and divides `width`.

    Raises:
        UnsupportedModelError: none does.
    """
    for group_size in sorted(GROUP_SIZES, reverse=True):
        if group_size <= wanted and width % group_size == 0:
            return group_size
    raise UnsupportedModelError(
        f"a layer {width} wide does not divide into groups of {GROUP_SIZES[0]}: build with --quant none"
    )
