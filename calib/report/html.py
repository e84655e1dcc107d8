"""The records of an engine as one HTML page that needs nothing else: no script, no style sheet, no font."""

import re
from collections.abc import Callable
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from edgekiln.calib.analysis.layer_report import sum_histograms
from edgekiln.calib.report import plots
from edgekiln.engine.manifest import EngineManifest
from edgekiln.engine.reports import BINS_AN_OCTAVE, ZERO_POINT_BINS, BuildReport, LayerReport, QuantizationReport

_NUMBERED = re.compile(r"\.(\d+)\.")


def page(manifest: EngineManifest, record: QuantizationReport, report: BuildReport) -> str:
    """The page as text."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(grid=grid, zero_points=zero_point_range)
    template = files("edgekiln.calib.report").joinpath("template.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        manifest=manifest,
        record=record,
        report=report,
        size=sum(report.sizes.values()),
        plots=[(title, note, Markup(svg)) for title, note, svg in _plots(record, report) if svg],
    )


def grid(layer: LayerReport) -> str:
    """What kind of codes a layer has, in a few words."""
    if layer.codebook:
        return layer.codebook
    words = ["symmetric" if layer.symmetric else "asymmetric"]
    words += ["group bias"] if layer.group_bias else []
    words += ["own order"] if layer.act_order else []
    return ", ".join(words)


def zero_point_range(layer: LayerReport) -> str:
    """The range of bins in which a layer's zero points lie, "" where it has none."""
    filled = [index for index, count in enumerate(layer.zero_points or ()) if count]
    if not filled:
        return ""
    width = (1 << layer.bits) // ZERO_POINT_BINS
    return f"{filled[0] * width}–{(filled[-1] + 1) * width - 1}"


def _plots(record: QuantizationReport, report: BuildReport) -> list[tuple[str, str, str]]:
    """(title, note, svg) of each plot; an empty svg is a plot of nothing."""
    layers = record.layers
    found = [
        (
            "Output error by layer",
            "Squared error of the output over its squares on calibration data, activations rounded as at run time.",
            plots.lines(_by_kind(layers, lambda layer: layer.output_error), "block", "output error"),
        ),
        (
            "Weight error by layer",
            "Squared error of the weight over its squares. Weights that kept a checkpoint's grid have none.",
            plots.lines(_by_kind(layers, lambda layer: layer.relative_error), "block", "weight error"),
        ),
    ]
    for bits in sorted({layer.bits for layer in layers.values()}):
        histogram = sum_histograms(layer.scales for layer in layers.values() if layer.bits == bits)
        labels = [f"{2 ** ((histogram.first + i) / BINS_AN_OCTAVE):.2g}" for i in range(len(histogram.counts))]
        svg = plots.columns(histogram.counts, labels, "scale, from")
        found.append((f"Scales of {bits}-bit weights", "How many scales lie in each half octave.", svg))
    for bits in sorted({layer.bits for layer in layers.values() if layer.zero_points}):
        counts = [layer.zero_points for layer in layers.values() if layer.bits == bits and layer.zero_points]
        width = (1 << bits) // ZERO_POINT_BINS
        totals = [sum(column) for column in zip(*counts, strict=True)]
        svg = plots.columns(totals, [str(i * width) for i in range(ZERO_POINT_BINS)], "zero point, from")
        found.append((f"Zero points of {bits}-bit weights", "How many groups have each.", svg))
    found.append(("Sizes", "", plots.rows({name: size / 1e6 for name, size in report.sizes.items()}, "MB")))
    found.append(("Build", "Seconds by step.", plots.rows(report.steps, "s")))
    return found


def _by_kind(
    layers: dict[str, LayerReport], value: Callable[[LayerReport], float | None]
) -> dict[str, list[plots.Point]]:
    """A series for each kind of module, by the number in the modules' names; modules without one are left out."""
    series: dict[str, list[plots.Point]] = {}
    for name, layer in layers.items():
        number, figure = _NUMBERED.search(name), value(layer)
        if number and figure is not None:
            series.setdefault(name.rpartition(".")[2], []).append((int(number[1]), figure))
    return series
