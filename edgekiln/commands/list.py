"""`edgekiln list`: the engines in a directory."""

from datetime import UTC, datetime
from pathlib import Path

import click

from edgekiln.commands._options.common import json_option, verbose_option
from edgekiln.commands._output import print_json, print_table
from edgekiln.engine.engines import ENGINES, EngineEntry, engines_in, entry_of
from edgekiln.errors import RequestError
from edgekiln.units import size_text


@click.command("list", short_help="List engines.")
@click.argument("directory", required=False, metavar="[DIR]", type=click.Path(path_type=Path))
@json_option
@verbose_option
def command(*, directory: Path | None, as_json: bool) -> None:
    """List the engines in DIR [engines]: name, model, quantization, target, size and date of each."""
    where = directory or ENGINES
    if directory is None and not where.is_dir():
        entries = []
    elif not where.is_dir():
        raise RequestError(f"no directory {where}: give one that holds engines")
    else:
        entries = [entry_of(path) for path in engines_in(where)]
    if as_json:
        print_json({"directory": str(where), "engines": [_facts(entry) for entry in entries]})
        return
    if not entries:
        click.echo(f"no engines in {where}: build one with `edgekiln engine MODEL`", err=True)
        return
    _show(entries)
    for entry in entries:
        if entry.error is not None:
            click.echo(f"{entry.path.name} cannot be used: {entry.error}", err=True)


def _facts(entry: EngineEntry) -> dict[str, object]:
    return {
        "name": entry.path.name,
        "path": str(entry.path),
        "model": entry.model,
        "source": entry.source,
        "quantization": entry.scheme,
        "target": entry.target,
        "bytes": entry.size,
        "packed_bytes": entry.packed_size,
        "built": datetime.fromtimestamp(entry.built, UTC).isoformat(timespec="seconds"),
        "error": entry.error,
    }


def _show(entries: list[EngineEntry]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "model", "quantization", "target", "size", "built"):
        # In a narrow terminal, names go on in a line of their own: they are typed in other commands.
        table.add_column(column, overflow="fold", justify="right" if column == "size" else "left")
    for entry in entries:
        built = datetime.fromtimestamp(entry.built).astimezone()
        table.add_row(
            *map(Text, (entry.path.name, entry.model, entry.scheme, entry.target, size_text(entry.size))),
            f"{built:%Y-%m-%d %H:%M}",
        )
    print_table(table)
