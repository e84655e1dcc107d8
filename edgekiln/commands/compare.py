"""`edgekiln compare`: how far an engine is from another, or from its model, and where they part."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekiln.commands._options.common import (
    engine_argument,
    extra,
    json_option,
    print_json,
    quiet_libraries,
    threads_option,
    verbose_option,
)
from edgekiln.engine.directory import is_engine
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import RequestError

if TYPE_CHECKING:
    from edgekiln.calib.evaluation.compare import Difference, Side

PROMPT = "The quick brown fox jumps over the lazy dog, and then it sleeps for a while in the shade of an old oak."


@click.command("compare", short_help="Show where an engine parts from a reference.")
@engine_argument
@click.argument("reference")
@click.option("-p", "--prompt", default=PROMPT, help="Text to run through both.")
@click.option("--layers", is_flag=True, help="Compare what both graphs compute in between, too.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Relative difference from which two tensors are apart [0.05]; given, exit 1 if any is.",
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
    """Run one prompt through ENGINE's graph and REFERENCE's, an engine or a model in float32, on the CPU."""
    quiet_libraries()
    with extra("export"):
        from edgekiln.calib.evaluation.compare import Side, compare, first_apart
        from edgekiln.runtimes.text.tokenizer import Tokenizer
    ours = Side(engine, read_manifest(engine))
    tokens = Tokenizer.from_engine(engine, ours.manifest).encode(prompt)
    limit = 0.05 if tolerance is None else tolerance
    with tempfile.TemporaryDirectory(prefix="edgekiln-") as directory:
        found = compare(ours, _reference(reference, Path(directory), ours), tokens, layers, threads)
    apart = first_apart(found, limit)
    if as_json:
        rows = [asdict(row) for row in found]
        print_json({"tokens": len(tokens), "first_apart": apart.name if apart else None, "differences": rows})
    else:
        _show(found, apart, limit)
    if tolerance is not None and apart:
        raise click.exceptions.Exit(1)


def _reference(reference: str, directory: Path, engine: "Side") -> "Side":
    """The engine at `reference`, or one of the model of that name in float32, built in `directory`."""
    from edgekiln.calib.evaluation.compare import Side

    if is_engine(Path(reference)):
        return Side(Path(reference), read_manifest(reference))
    if Path(reference).is_dir() and not (Path(reference) / "config.json").is_file():
        raise RequestError(f"{reference} is neither an engine nor a model: give one of them")
    from edgekiln.pipeline.build import build_engine
    from edgekiln.pipeline.options import BuildOptions
    from edgekiln.sources.resolve import resolve

    made = directory / "reference"
    length = engine.manifest.architecture.max_length
    return Side(made, build_engine(resolve(reference), made, BuildOptions(quant="none", max_length=length)))


def _show(found: "list[Difference]", apart: "Difference | None", limit: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("tensor", "largest difference", "relative", "cosine", box=None)
    for row in found:
        table.add_row(row.name, f"{row.absolute:.3g}", f"{row.relative:.3g}", f"{row.cosine:.6f}")
    Console().print(table)
    click.echo(
        f"nothing is apart by more than {limit:g}"
        if apart is None
        else f"apart by more than {limit:g}, relative, first at {apart.name}: {apart.relative:.3g}"
    )
