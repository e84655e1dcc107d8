"""Weights of all experts of a layer are those of each expert, one after another."""

import numpy as np
import pytest
import torch

from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.quantize_experts import quantize_experts
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.errors import SourceError

SCHEMES = [
    Scheme(bits=4, group_size=32, symmetric=False, activation="none"),
    Scheme(bits=8, group_size=None, symmetric=True, activation="int8-per-token"),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_each_expert_is_quantized_by_itself(scheme: Scheme) -> None:
    weights = (
        torch.randn(3, 8, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 10, 1e-3])[:, None, None]
    )
    found = quantize_experts(weights, scheme)
    each = [quantize(weight, scheme) for weight in weights]
    np.testing.assert_array_equal(found.codes, np.concatenate([weight.codes for weight in each]))
    np.testing.assert_array_equal(found.scales, np.concatenate([weight.scales for weight in each]))
    assert found.expert_errors == tuple(weight.relative_error for weight in each)
    difference = found.dequantize() - weights.reshape(-1, 64).numpy()
    energy = float(weights.square().sum())
    assert found.relative_error == pytest.approx(np.square(difference).sum() / energy, rel=1e-4)


def test_a_damaged_weight_names_its_expert() -> None:
    weights = torch.ones(3, 8, 64)
    weights[2, 1, 5] = torch.nan
    with pytest.raises(SourceError, match="expert 2: "):
        quantize_experts(weights, SCHEMES[0])
