"""The engine that a command line names."""

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from edgekiln.arguments import engine_path
from edgekiln.commands._engine_completion import complete_engine
from edgekiln.engine.directory import is_engine
from edgekiln.engine.engines import ENGINES, engines_in, find_engine
from edgekiln.sources.resolve import ALIASES


def named_engine(name: str, exact: bool = False) -> Path:
    """`find_engine`; RequestError where `name` is empty."""
    return find_engine(engine_path(name), exact, ALIASES)


def engine_or_none(name: str) -> Path | None:
    """The engine at a path, or in `engines` under its whole name; None where a model argument is meant."""
    return next((path for path in (Path(name), ENGINES / name) if name and is_engine(path)), None)


class EngineArgument(click.Path):
    """The path of an engine, or the name of one in `engines`, such as smollm2-135m for engines/smollm2-135m-int8.

    An empty path, as of a shell variable that is not set, would be the current directory, and is refused.
    """

    name = "engine"

    def __init__(self, exact: bool = False) -> None:
        """See `find_engine` for `exact`."""
        super().__init__(path_type=Path)
        self._exact = exact

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; EngineError where several engines in `engines` fit, or none of those there does."""
        return super().convert(named_engine(value, self._exact), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names of the engines in `engines`, and paths; directories only where there are neither.

        bash drops all other items for one of the type dir.
        """
        names = [path.name for path in engines_in(ENGINES)] if ENGINES.is_dir() else []
        fitting = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        paths = complete_engine(ctx, param, incomplete)
        return [*fitting, *(item for item in paths if not fitting or item.type != "dir")]
