"""What measurements take on the command line, where several take it."""

import os
from collections.abc import Callable
from pathlib import Path

import click

Main = Callable[..., None]

_PYTHON = click.Path(path_type=Path, exists=True)
_OF_RUN = [
    click.option("--out", type=click.Path(path_type=Path), default=Path("bench/results"), show_default=True),
    click.option("--reuse", is_flag=True, help="Take the engines that are in OUT instead of making them anew."),
    click.option("--threads", type=int, default=os.cpu_count(), show_default=True),
    click.option("--only", multiple=True, help="Part of a label, such as int8; may be given again."),
]
_PEERS = [
    click.option("--openvino", type=_PYTHON, required=True, help="Its Python."),
    click.option("--llama", type=_PYTHON, required=True, help="Its Python."),
]


def run_options(main: Main) -> Main:
    """Where results go, what is measured of what there is, and on how many threads."""
    return _with(_OF_RUN, main)


def peer_options(main: Main) -> Main:
    """The environments of peers that have their own."""
    return _with(_PEERS, main)


def numbers(text: str) -> list[int]:
    """The numbers of a list with commas."""
    return [int(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """The names of a list with commas."""
    return text.split(",")


def _with(options: list[Callable[[Main], Main]], main: Main) -> Main:
    for option in reversed(options):
        main = option(main)
    return main
