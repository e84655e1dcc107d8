"""A quantized weight as numpy arrays, and its packed form."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekiln.calib.formats.scheme import Codebook, Scheme

# NormalFloat (Dettmers et al. 2023): quantiles of a normal distribution, scaled to [-1, 1], with an exact zero. These
# are the constants of bitsandbytes' kernels.
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
# Twice the values of FP4 (E2M1, OCP Microscaling Formats 1.0), which are integers.
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
# ggml's kvalues_iq4nl.
_IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# Codebooks of integers, with which kernels multiply.
INTEGER_CODEBOOKS: dict[Codebook, npt.NDArray[np.int8]] = {
    "e2m1": np.array(_E2M1, dtype=np.int8),
    "iq4_nl": np.array(_IQ4_NL, dtype=np.int8),
}
CODEBOOKS: dict[Codebook, npt.NDArray[np.float32]] = {
    "nf4": np.array(_NF4, dtype=np.float32),
    **{name: table.astype(np.float32) for name, table in INTEGER_CODEBOOKS.items()},
}

Codes = npt.NDArray[np.uint8] | npt.NDArray[np.int8]


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight [N, K] as `scale * (code - zero_point) + group_bias`, or as `scale * codebook[code]`.

    Attributes:
        scheme: its scheme.
        codes: unpacked, [N, K]; uint8 in groups (0..15 with 4 bits), int8 (-127..127) with one scale per channel.
        scales: float32, all positive; [N, K / group_size], or [N] per channel.
        zero_points: uint8 [N, K / group_size]. None where the scheme is symmetric: the zero point is then 8 with 4 bits
            and 128 with 8 bits in groups, and 0 with one scale per channel.
        group_bias: float32 [N, K / group_size], where the scheme has it.
        order: int64 [K], where the scheme has act_order: column j of the codes is column order[j] of the weight. int64
            [E, K] for the rows of E experts, one below the other, which have N / E rows each.
        relative_error: sum of squared differences over sum of squared weights.
        clipped: share of the weights that are more than half a step outside the range of their codes.
        input_scale: static activation scale, where the scheme has one.
        input_clipped: share of the activations that the static scale clips on calibration data; None where unknown.
        expert_errors: `relative_error` of each expert, where the weight is those of all experts of a layer.
    """

    scheme: Scheme
    codes: Codes
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.uint8] | None
    relative_error: float
    clipped: float
    group_bias: npt.NDArray[np.float32] | None = None
    order: npt.NDArray[np.int64] | None = None
    input_scale: float | None = None
    input_clipped: float | None = None
    expert_errors: tuple[float, ...] | None = None

    def dequantize(self) -> npt.NDArray[np.float32]:
        """The weight as float32 [N, K]."""
        n = self.scales.shape[0]
        codes = self.codes.reshape(n, -1, self.scheme.group_size or self.codes.shape[1])
        values = CODEBOOKS[self.scheme.codebook][codes] if self.scheme.codebook else codes.astype(np.float32)
        if self.zero_points is not None:
            values -= self.zero_points[..., None]
        elif self.scheme.group_size and not self.scheme.codebook:
            values -= 1 << (self.scheme.bits - 1)
        values *= self.scales.reshape(n, -1, 1)
        if self.group_bias is not None:
            values += self.group_bias[..., None]
        values = values.reshape(self.codes.shape)
        if self.order is None:
            return values
        orders = np.atleast_2d(self.order)
        experts = values.reshape(len(orders), -1, self.codes.shape[1])
        return np.take_along_axis(experts, np.argsort(orders)[:, None], axis=2).reshape(values.shape)


def pack_int4(codes: Codes) -> npt.NDArray[np.uint8]:
    """Pack 4-bit codes [..., K] into bytes [..., ceil(K / 2)], low nibble first; an odd K is padded with a zero nibble.

    Raises:
        ValueError: a code is outside 0..15.
    """
    if codes.size and (codes.min() < 0 or codes.max() > 15):
        raise ValueError(f"4-bit codes must be in 0..15, got {codes.min()}..{codes.max()}")
    nibbles = codes.astype(np.uint8, copy=False)
    if nibbles.shape[-1] % 2:
        nibbles = np.concatenate([nibbles, np.zeros_like(nibbles[..., :1])], axis=-1)
    packed: npt.NDArray[np.uint8] = np.left_shift(nibbles[..., 1::2], 4, dtype=np.uint8)
    packed |= nibbles[..., 0::2]
    return packed
