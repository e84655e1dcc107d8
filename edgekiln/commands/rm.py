"""`edgekiln rm`: remove an engine."""

import sys
from pathlib import Path

import click

from edgekiln.commands._engine import EngineArgument
from edgekiln.commands._options.common import verbose_option
from edgekiln.commands._signals import exit_on_signal
from edgekiln.engine.engines import entry_of
from edgekiln.engine.removal import check_removable, remove_engine
from edgekiln.errors import RequestError
from edgekiln.units import size_text


@click.command("rm", short_help="Remove an engine.")
@click.argument("engine", type=EngineArgument(exact=True))
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@verbose_option
def command(*, engine: Path, yes: bool) -> None:
    """Remove the directory of ENGINE and its packed weights, after asking on the terminal.

    A directory that is not an engine, or that holds other files, is left as it is.
    """
    check_removable(engine)
    entry = entry_of(engine)
    size = entry.size + entry.packed_size
    if not yes:
        if not sys.stdin.isatty():
            raise RequestError(f"removing {engine} needs a yes, and there is no terminal to ask on: give --yes")
        if not click.confirm(f"Remove {engine} ({entry.model} {entry.scheme}, {size_text(size)})?", err=True):
            click.echo("nothing was removed", err=True)
            raise click.exceptions.Exit(1)
    with exit_on_signal():
        remove_engine(engine)
    click.echo(f"{engine}: removed, {size_text(size)}")
