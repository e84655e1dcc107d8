"""Build the entries of quantization.json from quantized weights."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.engine.reports import BINS_AN_OCTAVE, ZERO_POINT_BINS, LayerReport, ScaleHistogram


def layer_report(weight: QuantizedWeight, output_error: float | None = None, experts: int | None = None) -> LayerReport:
    """The entry of one quantized weight.

    Args:
        weight: the quantized weight.
        output_error: relative squared error of the layer's output, where it was measured.
        experts: how many experts' weights `weight` is, one after another; None for a weight of a linear layer.
    """
    out_features, in_features = weight.codes.shape
    scheme = weight.scheme
    return LayerReport(
        out_features=out_features // (experts or 1),
        in_features=in_features,
        experts=experts,
        bits=scheme.bits,
        group_size=scheme.group_size,
        symmetric=scheme.symmetric,
        activation=scheme.activation,
        group_bias=scheme.group_bias,
        act_order=scheme.act_order,
        codebook=scheme.codebook,
        scale_min=float(weight.scales.min()),
        scale_max=float(weight.scales.max()),
        scales=scale_histogram(weight.scales),
        zero_points=None if weight.zero_points is None else _zero_point_histogram(weight.zero_points, scheme.bits),
        input_scale=weight.input_scale,
        input_clipped=weight.input_clipped,
        clipped=weight.clipped,
        relative_error=weight.relative_error,
        expert_errors=None if weight.expert_errors is None else list(weight.expert_errors),
        output_error=output_error,
    )


def scale_histogram(scales: npt.NDArray[np.float32]) -> ScaleHistogram:
    """Count positive scales of any shape by half octaves. Zero scales are not counted."""
    positive = scales[scales > 0].astype(np.float64)
    if not positive.size:
        return ScaleHistogram(first=0, counts=[])
    bins = np.floor(np.log2(positive) * BINS_AN_OCTAVE).astype(np.int64)
    first = int(bins.min())
    return ScaleHistogram(first=first, counts=np.bincount(bins - first).tolist())


def sum_histograms(histograms: Iterable[ScaleHistogram]) -> ScaleHistogram:
    """The histogram of the scales of several weights together."""
    filled = [histogram for histogram in histograms if histogram.counts]
    if not filled:
        return ScaleHistogram(first=0, counts=[])
    first = min(histogram.first for histogram in filled)
    counts = [0] * (max(histogram.first + len(histogram.counts) for histogram in filled) - first)
    for histogram in filled:
        for index, count in enumerate(histogram.counts):
            counts[histogram.first - first + index] += count
    return ScaleHistogram(first=first, counts=counts)


def _zero_point_histogram(zero_points: npt.NDArray[np.uint8], bits: int) -> list[int]:
    width = (1 << bits) // ZERO_POINT_BINS
    return np.bincount(zero_points.reshape(-1) // width, minlength=ZERO_POINT_BINS).tolist()
