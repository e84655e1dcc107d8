"""Quantize one weight of all experts of a layer, one expert after another."""

from collections.abc import Iterable

import numpy as np
import torch

from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.errors import SourceError


def quantize_experts(weights: Iterable[torch.Tensor], scheme: Scheme) -> QuantizedWeight:
    """Quantize the weights [N, K] of experts, of any float type, each as `quantize` does.

    Returns:
        The weight [E · N, K] of the experts one after another, with the error of each in `expert_errors`.

    Raises:
        SourceError: a weight holds NaN or infinity; the message names the expert.
    """
    found, energies = [], []
    for expert, weight in enumerate(weights):
        try:
            found.append(quantize(weight.contiguous(), scheme))
        except SourceError as error:
            raise SourceError(f"expert {expert}: {error}") from error
        energies.append(float(weight.double().square().sum()))
    return joined(found, energies)


def joined(experts: list[QuantizedWeight], energies: list[float]) -> QuantizedWeight:
    """The weights [N, K] of experts as one [E · N, K].

    Args:
        experts: in the order of their numbers, of one scheme.
        energies: the sum of the squares of each weight before it was quantized.
    """
    total = sum(energies)
    squared = sum(expert.relative_error * energy for expert, energy in zip(experts, energies, strict=True))
    zero_points = [expert.zero_points for expert in experts if expert.zero_points is not None]
    return QuantizedWeight(
        scheme=experts[0].scheme,
        codes=np.concatenate([expert.codes for expert in experts]),
        scales=np.concatenate([expert.scales for expert in experts]),
        zero_points=np.concatenate(zero_points) if zero_points else None,
        relative_error=squared / total if total else 0.0,
        clipped=sum(expert.clipped for expert in experts) / len(experts),
        expert_errors=tuple(expert.relative_error for expert in experts),
    )
