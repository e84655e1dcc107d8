"""`edgekiln report`: the quantization report of an engine, as a table, JSON or an HTML page with plots."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekiln.commands._options.common import engine_argument, json_option, verbose_option
from edgekiln.commands._output import heading, print_json, print_table
from edgekiln.commands._signals import exit_on_signal
from edgekiln.engine.manifest import EngineManifest, read_manifest
from edgekiln.engine.output_file import write_output_file
from edgekiln.units import size_text

if TYPE_CHECKING:
    from rich.table import Table

    from edgekiln.engine.reports import BuildReport, LayerReport, QuantizationReport


_WORST = 5  # layers of the summary


@click.command("report", short_help="Show the quantization report.")
@engine_argument
@click.option("--layers", is_flag=True, help="Also show a table of all layers.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write an HTML page with plots to FILE.")
@json_option
@verbose_option
def command(*, engine: Path, layers: bool, html: Path | None, as_json: bool) -> None:
    """Show ENGINE's quality, size and the layers that quantization changed most, as measured when it was built.

    With --html alone, only the path of the page is printed.
    """
    from edgekiln.engine.reports import read_quantization, read_report

    manifest = read_manifest(engine)
    quantization, report = read_quantization(engine), read_report(engine)
    if html is not None:
        from edgekiln.calib.report.html import page

        with exit_on_signal():
            write_output_file(html, page(manifest, quantization, report), [engine])
    if as_json:
        print_json({"engine": str(engine), "quantization": quantization.model_dump(), "report": report.model_dump()})
        return
    if html is None or layers:
        _show(manifest, quantization, report, details=layers)
    if layers:
        print_table(_table(quantization.layers))
    if html is not None:
        click.echo(html)


def _show(manifest: EngineManifest, quantization: "QuantizationReport", report: "BuildReport", details: bool) -> None:
    heading(f"{manifest.name}, {quantization.scheme} for {manifest.target}")
    if quality := report.quality:
        before, after = (
            "∞" if value is None else f"{value:.5g}" for value in (quality.perplexity_before, quality.perplexity_after)
        )
        click.echo(f"  on             {quality.tokens} tokens of {quality.text}, windows of {quality.window}")
        click.echo(f"  perplexity     {before} in float32, {after} now")
        click.echo(
            f"  KL divergence  {quality.kl_divergence:.5f} nats, the same likeliest token {quality.same_top:.2%}"
        )
    click.echo(f"  size           {size_text(sum(report.sizes.values()))}")
    click.echo(f"  built          in {report.build_seconds:.1f} s with {size_text(report.peak_rss_mb * 1e6)} of memory")
    if quantization.layers:
        click.echo(f"  layers         {_layer_counts(quantization.layers)}")
    for note in report.notes:
        lines = note.split("\n")
        click.echo("\n    ".join([f"  note: {lines[0]}", *(lines[1:] if details else ())]))
    if quantization.layers:
        _show_worst(quantization.layers)


def _layer_counts(layers: "dict[str, LayerReport]") -> str:
    """How many layers have how many bits, and how many of them keep the checkpoint's codes."""
    bits = Counter(layer.bits for layer in layers.values())
    counts = ", ".join(f"{count} with {number} bits" for number, count in sorted(bits.items()))
    kept = sum(layer.relative_error == 0 for layer in layers.values())
    return counts + (f"; {kept} keep the codes of the checkpoint" if kept else "")


def _show_worst(layers: "dict[str, LayerReport]") -> None:
    """The layers with the largest errors: of their outputs where those were measured, else of their weights."""
    measured = {name: layer.output_error for name, layer in layers.items() if layer.output_error is not None}
    what = "output error" if measured else "weight error"
    errors = measured or {name: layer.relative_error for name, layer in layers.items() if layer.relative_error}
    worst = sorted(errors.items(), key=lambda item: -item[1])[:_WORST]
    if not worst:
        click.echo("no layer differs from the checkpoint")
        return
    heading(f"largest {what}, {len(worst)} of {len(layers)} layers (--layers shows all)")
    for name, error in worst:
        click.echo(f"  {error:.2e}  {layers[name].bits} bits  {name}")


def _table(layers: "dict[str, LayerReport]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from edgekiln.calib.report.html import expert_errors, grid, zero_point_range

    mixture = any(layer.experts for layer in layers.values())
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "layer",
        "bits",
        "group",
        "grid",
        "scales",
        "zero points",
        "clipped",
        "weight error",
        "output error",
        *(["experts"] if mixture else []),
    ):
        table.add_column(column, no_wrap=column == "layer")
    for name, layer in layers.items():
        table.add_row(
            Text(name),
            str(layer.bits),
            str(layer.group_size or "channel"),
            grid(layer),
            f"{layer.scale_min:.1e}–{layer.scale_max:.1e}",
            zero_point_range(layer),
            f"{layer.clipped:.2%}",
            f"{layer.relative_error:.2e}",
            "" if layer.output_error is None else f"{layer.output_error:.2e}",
            *([expert_errors(layer)] if mixture else []),
        )
    return table
