"""The base class of the models of an engine's JSON files, and the error for another schema version."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from edgekiln.errors import EngineError


class Schema(BaseModel):
    """An immutable model that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def version_error(path: Path, version: object, supported: int) -> EngineError:
    """The error for a file of another schema version: an older engine is to be rebuilt, edgekiln is to be upgraded.

    Args:
        path: the file.
        version: its schema version; anything, because the file is not trusted.
        supported: the only version that this edgekiln reads.
    """
    older = isinstance(version, int) and version < supported
    fix = "build the engine again" if older else "upgrade edgekiln"
    return EngineError(f"{path} has schema version {version!r}, this edgekiln reads version {supported}: {fix}")
