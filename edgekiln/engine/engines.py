"""The engines in a directory, such as `engines`, where builds put them: list them, and find one by its name."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekiln.engine.directory import ENGINE_FILE, is_engine
from edgekiln.engine.listed_files import read_leniently
from edgekiln.engine.manifest import read_manifest
from edgekiln.engine.packed_directory import is_packed_directory
from edgekiln.errors import EngineError

ENGINES = Path("engines")
_NAMES_IN_MESSAGE = 6


@dataclass(frozen=True)
class EngineEntry:
    """An engine directory, as far as its engine.json can be read.

    Attributes:
        path: the directory.
        model: short name of the model.
        source: model argument that it was built from.
        scheme: name of its quantization recipe.
        target: its target.
        size: bytes of its files, without packed weights.
        packed_size: bytes of packed weights beside it.
        built: when engine.json was written, in seconds since 1970.
        error: why it cannot be used; None for a sound manifest.
    """

    path: Path
    model: str
    source: str
    scheme: str
    target: str
    size: int
    packed_size: int
    built: float
    error: str | None


def engines_in(directory: Path) -> list[Path]:
    """The engines in a directory by name, or the directory itself if it is an engine; hidden ones are left out.

    Raises:
        OSError: there is no such directory, or it cannot be read.
    """
    if is_engine(directory):
        return [directory]
    return sorted(path for path in directory.iterdir() if not path.name.startswith(".") and is_engine(path))


def entry_of(path: Path) -> EngineEntry:
    """Describe an engine directory, also one that is damaged or of another schema version. Files are not hashed."""
    error = None
    try:
        read_manifest(path, verify=False)
    except EngineError as failure:
        error = str(failure)
    manifest = read_leniently(path)
    recipe = manifest.get("quantization")
    files = list(_files(path))
    return EngineEntry(
        path=path,
        model=_text(manifest, "name"),
        source=_text(manifest, "source"),
        scheme=_text(recipe if isinstance(recipe, dict) else {}, "scheme"),
        target=_text(manifest, "target"),
        size=sum(size for name, size in files if os.sep not in name),
        packed_size=sum(size for name, size in files if os.sep in name),
        built=(path / ENGINE_FILE).stat().st_mtime,
        error=error,
    )


def find_engine(name: str, exact: bool = False, models: Collection[str] = (), directory: Path = ENGINES) -> Path:
    """The engine that a user means: a path, the name of an engine in `directory`, or the model of the only one there.

    Args:
        name: a path, the name of an engine's directory or its beginning, the short name of a model, or a hub id.
        exact: take paths and whole names only, for what cannot be undone.
        models: models that are built by their name alone, for the message.
        directory: where engines are looked for.

    Returns:
        The path of an engine; `name` itself where it is the path of something else, or where there are no engines.

    Raises:
        EngineError: several engines fit, or none does; the message names those that there are.
    """
    path = Path(name)
    if is_engine(path):
        return path
    known = engines_in(directory) if directory.is_dir() else []
    for found in known:
        if found.name == name:
            return found
    fitting = [] if exact else [found for found in known if _fits(name, found)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise EngineError(f"several engines in {directory} are of {name}: give {_listed(fitting, 'or')}")
    if name in models:
        raise EngineError(f"there is no engine of {name} in {directory}: build one with `edgekiln engine {name}`")
    if known and path.name == name and not os.path.lexists(path):
        raise EngineError(
            f"no engine {name} here or in {directory}, which has {_listed(known, 'and')}: give one of them"
        )
    # A directory of engines, or a name that is not in it.
    around = path if os.path.isdir(path) else path.parent
    if around == path or (path.name != name and os.path.isdir(around) and not os.path.lexists(path)):
        inside = [] if is_engine(around) else engines_in(around)
        if inside:
            raise EngineError(f"{path} is no engine, {around} has {_listed(inside, 'and')}: give one of them")
    return path


def _fits(name: str, engine: Path) -> bool:
    manifest = read_leniently(engine)
    return engine.name.startswith(f"{name}-") or name in (manifest.get("name"), manifest.get("source"))


def _listed(engines: list[Path], conjunction: str) -> str:
    names = [engine.name for engine in engines]
    if len(names) > _NAMES_IN_MESSAGE:
        names = [*names[: _NAMES_IN_MESSAGE - 1], f"{len(names) - _NAMES_IN_MESSAGE + 1} more"]
    return f" {conjunction} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _files(directory: Path) -> Iterator[tuple[str, int]]:
    """Name and bytes of each file, with those of packed weights."""
    for path in directory.iterdir():
        if path.is_file():
            yield path.name, path.stat().st_size
        elif is_packed_directory(path):
            yield from ((str(Path(path.name, each.name)), each.stat().st_size) for each in path.iterdir())


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else "?"
