"""`edgekiln compare`: the first tensor in which an engine differs from another one, or from its model in float32."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekiln.commands._engine import engine_or_none
from edgekiln.commands._options.common import (
    engine_argument,
    json_option,
    threads_option,
    verbose_option,
)
from edgekiln.commands._output import print_json, print_table
from edgekiln.commands._signals import exit_on_signal
from edgekiln.engine.manifest import read_manifest
from edgekiln.engine.temporary import scratch_directory
from edgekiln.errors import RequestError
from edgekiln.extras import requires_extra

if TYPE_CHECKING:
    from edgekiln.calib.evaluation.compare import Difference, Side

PROMPT = "The quick brown fox jumps over the lazy dog, and then it sleeps for a while in the shade of an old oak."


@click.command("compare", short_help="Show where an engine differs from a reference.")
@engine_argument
@click.argument("reference")
@click.option("-p", "--prompt", default=PROMPT, help="Prompt for both.")
@click.option("--layers", is_flag=True, help="Also compare intermediate tensors of the graphs.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Relative difference above which two tensors differ [0.05]; if given, exit with 1 if any does.",
)
@threads_option
@json_option
@verbose_option
def command(
    *,
    engine: Path,
    reference: str,
    prompt: str,
    layers: bool,
    tolerance: float | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Run one prompt on the CPU through the graphs of ENGINE and of REFERENCE, an engine or a model (in float32)."""
    with requires_extra("export"):
        from edgekiln.calib.evaluation.compare import Side, compare, first_apart
        from edgekiln.runtimes.text.tokenizer import Tokenizer
    ours = Side(engine, read_manifest(engine))
    tokens = Tokenizer.from_engine(engine, ours.manifest).encode(prompt)
    limit = 0.05 if tolerance is None else tolerance
    with exit_on_signal(), scratch_directory() as directory:
        found = compare(ours, _reference(reference, directory, ours), tokens, layers, threads)
    apart = first_apart(found, limit)
    if as_json:
        differences = [asdict(each) for each in found]
        print_json({"tokens": len(tokens), "first_apart": apart.name if apart else None, "differences": differences})
    else:
        _show(found, apart, limit)
    if tolerance is not None and apart:
        raise click.exceptions.Exit(1)


def _reference(reference: str, directory: Path, engine: "Side") -> "Side":
    """The engine at `reference`, or the model of that name, built in float32 in `directory`."""
    from edgekiln.calib.evaluation.compare import Side

    if (path := engine_or_none(reference)) is not None:
        return Side(path, read_manifest(path))
    if Path(reference).is_dir() and not (Path(reference) / "config.json").is_file():
        raise RequestError(f"{reference} is neither an engine nor a model: give one of them")
    from edgekiln.api_build import build

    path, length = directory / "reference", engine.manifest.architecture.max_length
    return Side(path, build(reference, path, quant="none", max_length=length).manifest)


def _show(found: "list[Difference]", apart: "Difference | None", limit: float) -> None:
    from rich.table import Table

    table = Table("tensor", "largest difference", "relative", "cosine", box=None)
    for each in found:
        table.add_row(each.name, f"{each.absolute:.3g}", f"{each.relative:.3g}", f"{each.cosine:.6f}")
    print_table(table)
    click.echo(
        f"nothing is apart by more than {limit:g}"
        if apart is None
        else f"apart by more than {limit:g}, relative, first at {apart.name}: {apart.relative:.3g}"
    )
