"""What a weight is quantized to."""

from dataclasses import dataclass

from edgekiln.engine.reports import Activation, Codebook
from edgekiln.errors import UnsupportedModelError

GROUP_SIZES = (32, 64, 128)
EMBEDDING_GROUP = 32


@dataclass(frozen=True)
class Scheme:
    """Target of one weight [N, K].

    Attributes:
        bits: 4 or 8.
        group_size: consecutive inputs (columns) that share a scale; None is one scale an output channel (row).
        symmetric: no zero points, code 0 means 0.
        activation: how the layer's input is treated at run time: as float, as int8 with a scale a token, or as int8
            with one scale for all, found on calibration data.
        group_bias: a float bias is added to each group's weights.
        act_order: groups are of permuted input channels; the layer's input is permuted at run time.
        codebook: codes are looked up in a table instead of counted in steps.
    """

    bits: int
    group_size: int | None
    symmetric: bool
    activation: Activation
    group_bias: bool = False
    act_order: bool = False
    codebook: Codebook | None = None


def dividing_group(wanted: int, width: int) -> int:
    """The largest group size up to `wanted` that divides `width`.

    Raises:
        UnsupportedModelError: none does.
    """
    for group_size in sorted(GROUP_SIZES, reverse=True):
        if group_size <= wanted and width % group_size == 0:
            return group_size
    raise UnsupportedModelError(
        f"a layer {width} wide does not divide into groups of {GROUP_SIZES[0]}: build with --quant none"
    )
