"""`edgekiln report`: the quantization report of an engine, as a table, JSON or an HTML page with plots."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekiln.commands._options.common import engine_argument, json_option, verbose_option
from edgekiln.commands._output import heading, print_json, print_table
from edgekiln.commands._signals import exit_on_signal
from edgekiln.engine.manifest import EngineManifest, read_manifest
from edgekiln.engine.output_file import write_output_file

if TYPE_CHECKING:
    from rich.table import Table

    from edgekiln.engine.reports import BuildReport, QuantizationReport


@click.command("report", short_help="Show the quantization report.")
@engine_argument
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write an HTML page with plots to FILE.")
@json_option
@verbose_option
def command(engine: Path, html: Path | None, as_json: bool) -> None:
    """Show ENGINE's quality, size and the quantization of each layer, as measured when it was built."""
    from edgekiln.engine.reports import read_quantization, read_report

    manifest = read_manifest(engine)
    quantization, report = read_quantization(engine), read_report(engine)
    if html is not None:
        from edgekiln.calib.report.html import page

        with exit_on_signal():
            write_output_file(html, page(manifest, quantization, report), [engine])
    if as_json:
        print_json({"engine": str(engine), "quantization": quantization.model_dump(), "report": report.model_dump()})
    else:
        _show(manifest, quantization, report)
        if html is not None:
            click.echo(f"page: {html}")


def _show(manifest: EngineManifest, quantization: "QuantizationReport", report: "BuildReport") -> None:
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
    click.echo(f"  size           {sum(report.sizes.values()) / 1e6:.1f} MB")
    for note in report.notes:
        click.echo(f"  note: {note}")
    print_table(_table(quantization))


def _table(quantization: "QuantizationReport") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from edgekiln.calib.report.html import expert_errors, grid, zero_point_range

    mixture = any(layer.experts for layer in quantization.layers.values())
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
    for name, layer in quantization.layers.items():
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
