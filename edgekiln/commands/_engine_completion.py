"""What Tab offers for the path of an engine."""

import os

import click
from click.shell_completion import CompletionItem


def complete_engine(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The engines that a path may go on to; where there are none, the directories that the shell finds."""
    from edgekiln.engine.directory import ENGINE_FILE

    base, start = os.path.split(incomplete)
    try:
        names = sorted(name for name in os.listdir(base or ".") if name.startswith(start))
    except OSError:
        names = []
    paths = [os.path.join(base, name) for name in names if start or not name.startswith(".")]
    engines = [path for path in paths if os.path.isfile(os.path.join(path, ENGINE_FILE))]
    return [CompletionItem(path) for path in engines] or [CompletionItem(incomplete, type="dir")]
