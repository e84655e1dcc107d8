"""Reading the JSON files of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from edgekiln.errors import SourceError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SourceError: the file cannot be read, is not JSON, or holds another JSON type.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise SourceError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise SourceError(f"{path} holds no JSON object: download it again")
    return value
