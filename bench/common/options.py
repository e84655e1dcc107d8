"""Command-line options shared by several suites."""

from collections.abc import Callable
from pathlib import Path

import click

from edgekiln.runtimes.threads import available_processors

Main = Callable[..., None]

_PYTHON = click.Path(path_type=Path, exists=True)
_OF_RUN = [
    click.option("--out", type=click.Path(path_type=Path), default=Path("bench/results"), show_default=True),
    click.option("--reuse", is_flag=True, help="Reuse the edgekiln engines in OUT instead of rebuilding them."),
    click.option("--threads", type=int, default=available_processors(), show_default=True),
    click.option("--only", multiple=True, help="Measure only labels that contain this text; repeatable."),
]
_PEERS = [
    click.option("--openvino", type=_PYTHON, required=True, help="Interpreter of its environment."),
    click.option("--llama", type=_PYTHON, required=True, help="Interpreter of its environment."),
]


def run_options(main: Main) -> Main:
    """--out, --reuse, --threads and --only."""
    return _with(_OF_RUN, main)


def peer_options(main: Main) -> Main:
    """--openvino and --llama, the interpreters of the peers' environments."""
    return _with(_PEERS, main)


def numbers(text: str) -> list[int]:
    """Parse comma-separated integers."""
    return [int(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """Parse comma-separated names."""
    return text.split(",")


def _with(options: list[Callable[[Main], Main]], main: Main) -> Main:
    for option in reversed(options):
        main = option(main)
    return main
