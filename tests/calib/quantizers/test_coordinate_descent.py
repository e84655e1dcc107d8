"""Coordinate descent lowers the output error, and its scales are numpy's least-squares solution."""

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.quantizers.coordinate_descent import coordinate_descent

N, K, GROUP = 24, 160, 32


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    """Correlated channels of different magnitudes, as in a model."""
    generator = torch.Generator().manual_seed(1)
    mixed = torch.randn(1000, 40, generator=generator) @ torch.randn(40, K, generator=generator)
    return (mixed + 2 * torch.randn(1000, K, generator=generator)) * torch.linspace(0.2, 3, K)


def error(values: npt.NDArray[np.float32], weight: torch.Tensor, inputs: torch.Tensor) -> float:
    difference = inputs.double().numpy() @ (values - weight.numpy()).T.astype(np.float64)
    return float((difference**2).sum())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_output_error_falls(weight: torch.Tensor, inputs: torch.Tensor, bits: int, symmetric: bool) -> None:
    nearest = quantize(weight, Scheme(bits, GROUP, symmetric, "none"))
    improved = coordinate_descent(weight, nearest, inputs.t() @ inputs)
    assert error(improved.dequantize(), weight, inputs) < 0.7 * error(nearest.dequantize(), weight, inputs)
    assert improved.scheme == nearest.scheme
    assert improved.zero_points is nearest.zero_points
    assert improved.codes.max() < 1 << bits
    assert (improved.scales > 0).all()
    difference = torch.from_numpy(improved.dequantize()) - weight
    assert improved.relative_error == pytest.approx(float(difference.square().sum() / weight.square().sum()), rel=1e-4)


def test_scales_are_the_least_squares(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    improved = coordinate_descent(weight, quantize(weight, Scheme(4, GROUP, False, "none")), inputs.t() @ inputs)
    unit = dataclasses.replace(improved, scales=np.ones_like(improved.scales)).dequantize()
    best = np.empty_like(improved.dequantize())
    # Damping is equivalent to further inputs with a single nonzero channel each.
    damping = np.sqrt(0.01 * float(inputs.square().sum()) / K)
    damped = np.concatenate([inputs.numpy(), damping * np.eye(K)])
    for channel in range(N):
        parts = [
            damped[:, start : start + GROUP] @ unit[channel, start : start + GROUP] for start in range(0, K, GROUP)
        ]
        scales = np.linalg.lstsq(np.stack(parts, 1), damped @ weight[channel].numpy())[0]
        best[channel] = unit[channel] * scales.repeat(GROUP)
    limit = error(best, weight, torch.from_numpy(damped).float())
    assert error(improved.dequantize(), weight, torch.from_numpy(damped).float()) < 1.001 * limit


def test_an_exact_weight_keeps_its_codes(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    nearest = quantize(weight, Scheme(4, GROUP, False, "none"))
    improved = coordinate_descent(torch.from_numpy(nearest.dequantize()), nearest, inputs.t() @ inputs)
    np.testing.assert_array_equal(improved.codes, nearest.codes)
    np.testing.assert_allclose(improved.scales, nearest.scales, rtol=1e-4)


def test_without_inputs_and_with_empty_groups(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    nearest = quantize(weight, Scheme(4, GROUP, False, "none"))
    assert coordinate_descent(weight, nearest, torch.zeros(K, K)) is nearest
    emptied = weight.clone()
    emptied[:, :GROUP] = 0
    nearest = quantize(emptied, nearest.scheme)
    improved = coordinate_descent(emptied, nearest, inputs.t() @ inputs)
    assert error(improved.dequantize(), emptied, inputs) < error(nearest.dequantize(), emptied, inputs)
