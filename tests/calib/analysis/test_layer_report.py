"""Entries of quantization.json against the weights that they describe."""

import numpy as np
import pytest
import torch

from edgekiln.calib.analysis.layer_report import layer_report, scale_histogram, sum_histograms
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.engine.reports import ScaleHistogram


def test_a_weight_with_one_scale_per_channel() -> None:
    weight = torch.tensor([[127.0, -1.0], [128.0, -254.0]]).repeat(1, 16)
    report = layer_report(quantize(weight, Scheme(8, None, True, "int8-per-token")), output_error=0.25)
    assert (report.out_features, report.in_features) == (2, 32)
    assert (report.bits, report.group_size, report.symmetric, report.activation) == (8, None, True, "int8-per-token")
    assert (report.scale_min, report.scale_max) == (pytest.approx(1.0), pytest.approx(2.0, rel=1e-4))
    assert (report.zero_points, report.clipped, report.output_error) == (None, 0.0, 0.25)
    assert report.relative_error == pytest.approx(0.0, abs=1e-4)
    assert sum(report.scales.counts) == 2


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_points_are_counted_over_the_range_of_the_codes(bits: int) -> None:
    quantized = quantize(torch.randn(8, 64) + 1, Scheme(bits, 32, False, "none"))
    zero_points = layer_report(quantized).zero_points
    expected, _ = np.histogram(quantized.zero_points, bins=16, range=(0, 1 << bits))  # type: ignore[arg-type]
    assert zero_points == expected.tolist()


def test_scales_are_counted_by_half_octaves() -> None:
    scales = np.array([[0.5, 0.7], [0.75, 1.0], [0.0, 3.9]], dtype=np.float32)
    histogram = scale_histogram(scales)
    # From 2^-1: [0.5, 0.707), [0.707, 1), [1, 1.414), then up to [2.83, 4).
    assert histogram == ScaleHistogram(first=-2, counts=[2, 1, 1, 0, 0, 1])
    together = sum_histograms([scale_histogram(scales[:1]), scale_histogram(scales[1:2]), scale_histogram(scales[2:])])
    assert together == histogram
    assert sum_histograms([scale_histogram(np.zeros(3, np.float32))]) == ScaleHistogram(first=0, counts=[])
