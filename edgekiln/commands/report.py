"""`edgekiln report`: what quantization did to an engine, as a table, JSON or a page with plots."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekiln.commands._options.common import engine_argument, json_option, print_json, verbose_option
from edgekiln.engine.manifest import EngineManifest, read_manifest

if TYPE_CHECKING:
    from rich.table import Table

    from edgekiln.engine.reports import BuildReport, QuantizationReport


@click.command("report", short_help="Show what quantization did.")
@engine_argument
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with plots to FILE.")
@json_option
@verbose_option
def command(engine: Path, html: Path | None, as_json: bool) -> None:
    """Show ENGINE's quality, sizes and the quantization of each layer, as recorded when it was built."""
    from edgekiln.engine.reports import read_quantization, read_report

    manifest = read_manifest(engine)
    record, report = read_quantization(engine), read_report(engine)
    if html is not None:
        from edgekiln.calib.report.html import page

        _write(html, page(manifest, record, report))
    if as_json:
        print_json({"engine": str(engine), "quantization": record.model_dump(), "report": report.model_dump()})
    else:
        _show(manifest, record, report)
        if html is not None:
            click.echo(f"page: {html}")


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _show(manifest: EngineManifest, record: "QuantizationReport", report: "BuildReport") -> None:
    from rich.console import Console

    click.secho(f"{manifest.name}, {record.scheme} for {manifest.target}", bold=True)
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
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        # A pipe has no width to keep to.
        console.width = 200
    console.print(_table(record))


def _table(record: "QuantizationReport") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from edgekiln.calib.report.html import grid, zero_point_range

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (
        "layer",
        "bits",
        "group",
        "grid",
        "scales",
        "zero points",
        "clipped",
        "weight error",
        "output error",
    ):
        table.add_column(heading, no_wrap=heading == "layer")
    for name, layer in record.layers.items():
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
        )
    return table
