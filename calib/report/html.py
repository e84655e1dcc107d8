"""Render the reports of an engine as one HTML page, without scripts or external style sheets and fonts."""

import re
from collections.abc import Callable
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from edgekiln.calib.analysis.layer_report import sum_histograms
from edgekiln.calib.report import plots
from edgekiln.engine.manifest import EngineManifest
from edgekiln.engine.reports import BINS_AN_OCTAVE, ZERO_POINT_BINS, BuildReport, LayerReport, QuantizationReport

_LAYER_NUMBER = re.compile(r"\.(\d+)\.")


def page(manifest: EngineManifest, quantization: QuantizationReport, report: BuildReport) -> str:
    """Render the page.

    Args:
        manifest: engine.json.
        quantization: quantization.json.
        report: report.json.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(grid=grid, zero_points=zero_point_range, experts=expert_errors)
    template = files("edgekiln.calib.report").joinpath("template.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        manifest=manifest,
        quantization=quantization,
        report=report,
        size=sum(report.sizes.values()),
        plots=[(title, note, Markup(svg)) for title, note, svg in _plots(quantization, report) if svg],
    )


def grid(layer: LayerReport) -> str:
    """The kind of a layer's codes in a few words."""
    if layer.codebook:
        return layer.codebook
    words = ["symmetric" if layer.symmetric else "asymmetric"]
    words += ["group bias"] if layer.group_bias else []
    words += ["act-order"] if layer.act_order else []
    return ", ".join(words)


def zero_point_range(layer: LayerReport) -> str:
    """The range of a layer's zero points, to the width of a histogram bin; "" where it has none."""
    filled = [index for index, count in enumerate(layer.zero_points or ()) if count]
    if not filled:
        return ""
    width = (1 << layer.bits) // ZERO_POINT_BINS
    return f"{filled[0] * width}–{(filled[-1] + 1) * width - 1}"


def expert_errors(layer: LayerReport) -> str:
    """How many experts a layer has, and the one with the largest error of its weight; "" for other layers."""
    if layer.experts is None:
        return ""
    worst = layer.worst_expert
    return f"{layer.experts}" if worst is None else f"{layer.experts}, worst {worst[0]}: {worst[1]:.1e}"


def _plots(quantization: QuantizationReport, report: BuildReport) -> list[tuple[str, str, str]]:
    """(title, note, svg) of each plot; svg is empty where there is no data."""
    layers = quantization.layers
    found = [
        (
            "Output error by layer",
            "Relative squared error of the output on calibration data, with activations quantized as at run time.",
            plots.line_chart(_by_kind(layers, lambda layer: layer.output_error), "block", "output error"),
        ),
        (
            "Weight error by layer",
            "Relative squared error of the weight. Weights that keep the codes of the checkpoint have none.",
            plots.line_chart(_by_kind(layers, lambda layer: layer.relative_error), "block", "weight error"),
        ),
    ]
    worst = _by_kind(layers, lambda layer: layer.worst_expert[1] if layer.worst_expert else None)
    note = "Relative squared error of the weight of the expert that lost most in its block."
    found.append(("Weight error of the worst expert", note, plots.line_chart(worst, "block", "weight error")))
    for bits in sorted({layer.bits for layer in layers.values()}):
        histogram = sum_histograms(layer.scales for layer in layers.values() if layer.bits == bits)
        labels = [f"{2 ** ((histogram.first + i) / BINS_AN_OCTAVE):.2g}" for i in range(len(histogram.counts))]
        svg = plots.column_chart(histogram.counts, labels, "scale, from")
        found.append((f"Scales of {bits}-bit weights", "Number of scales in each half octave.", svg))
    for bits in sorted({layer.bits for layer in layers.values() if layer.zero_points}):
        counts = [layer.zero_points for layer in layers.values() if layer.bits == bits and layer.zero_points]
        width = (1 << bits) // ZERO_POINT_BINS
        totals = [sum(column) for column in zip(*counts, strict=True)]
        svg = plots.column_chart(totals, [str(i * width) for i in range(ZERO_POINT_BINS)], "zero point, from")
        found.append((f"Zero points of {bits}-bit weights", "Number of groups with each zero point.", svg))
    found.append(("Sizes", "", plots.bar_chart({name: size / 1e6 for name, size in report.sizes.items()}, "MB")))
    found.append(("Build", "Seconds per step.", plots.bar_chart(report.steps, "s")))
    return found


def _by_kind(
    layers: dict[str, LayerReport], value: Callable[[LayerReport], float | None]
) -> dict[str, list[plots.Point]]:
    """One series per kind of module, over the layer number in the modules' names; others are left out."""
    series: dict[str, list[plots.Point]] = {}
    for name, layer in layers.items():
        number, y = _LAYER_NUMBER.search(name), value(layer)
        if number and y is not None:
            series.setdefault(name.rpartition(".")[2], []).append((int(number[1]), y))
    return series
