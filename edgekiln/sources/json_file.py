"""Reading the JSON files of a checkpoint."""

from pathlib import Path
from typing import Any

from edgekiln.engine.json_text import parse_json
from edgekiln.errors import SourceError
from edgekiln.sources.git_lfs import refuse_pointer


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. NaN and Infinity are floats, as transformers reads them.

    Raises:
        SourceError: the file cannot be read, is not JSON, or holds another JSON type.
    """
    try:
        refuse_pointer(path)
        value = parse_json(path.read_bytes(), finite=False)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise SourceError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise SourceError(f"{path} holds no JSON object: download it again")
    return value
