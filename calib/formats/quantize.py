"""Round-to-nearest quantization (RTN) of one weight, with scales and zero points of least squared error."""

import torch

from edgekiln.calib.formats.blockwise import quantize_groups
from edgekiln.calib.formats.channel_parallel import map_channels
from edgekiln.calib.formats.per_channel import quantize_per_channel
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.errors import SourceError


def quantize(weight: torch.Tensor, scheme: Scheme) -> QuantizedWeight:
    """Quantize a weight on the CPU, with as many threads as torch is set to use. The result is deterministic.

    Args:
        weight: any float type, [N, K].
        scheme: 8 bits symmetric with one scale per channel, or 4 or 8 bits in groups.

    Raises:
        SourceError: the weight holds NaN or infinity.
        ValueError: the weight is not a matrix, the group size does not divide K, or the scheme is not supported.
    """
    if weight.dim() != 2 or weight.numel() == 0:
        raise ValueError(f"quantize takes a matrix, got shape {tuple(weight.shape)}")
    weight = weight.detach()
    energy = _energy(weight)
    if scheme.group_size is None:
        if not scheme.symmetric or scheme.bits != 8:
            raise ValueError(f"per channel is symmetric 8 bit only, got {scheme}")
        arrays = quantize_per_channel(weight)
    else:
        if scheme.bits not in (4, 8):
            raise ValueError(f"groups are 4 or 8 bit only, got {scheme}")
        if weight.shape[1] % scheme.group_size:
            raise ValueError(f"group size {scheme.group_size} does not divide {weight.shape[1]} columns")
        arrays = quantize_groups(weight, scheme.bits, scheme.group_size, scheme.symmetric)
    return QuantizedWeight(
        scheme=scheme,
        codes=arrays.codes.numpy(),
        scales=arrays.scales.numpy(),
        zero_points=None if arrays.zero_points is None else arrays.zero_points.numpy(),
        relative_error=arrays.squared_error / energy if energy else 0.0,
        clipped=arrays.clipped / weight.numel(),
    )


def _energy(weight: torch.Tensor) -> float:
    """Sum of squares, from the norms of the output channels. Torch copies what it takes the norm of to float64."""

    def norms_of(part: slice) -> list[float]:
        # Not a tensor: between the copies to float64, it would keep malloc from giving their memory to the next ones.
        return torch.linalg.vector_norm(weight[part], dim=1, dtype=torch.float64).tolist()

    parts = map_channels(norms_of, *weight.shape)
    norms = torch.tensor([norm for part in parts for norm in part], dtype=torch.float64)
    if not bool(torch.isfinite(norms).all()):
        raise SourceError("a weight holds NaN or infinite values: the checkpoint is damaged, fetch it again")
    return float(norms.square().sum())
