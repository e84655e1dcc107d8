"""The engine directory on disk: file names, hashes, and writing it whole or not at all.

An engine is written to a temporary directory beside the target and renamed, so an interrupted build leaves nothing
half done.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgekiln.errors import EngineError

ENGINE_FILE = "engine.json"
WEIGHTS_FILE = "weights.bin"
TOKENIZER_FILE = "tokenizer.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
CHAT_SEGMENTS_FILE = "chat_segments.json"  # the same for programs without Jinja, where it can be said so
QUANTIZATION_FILE = "quantization.json"
REPORT_FILE = "report.json"
_REFUSALS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,  # a directory above the target is a file
    errno.ENAMETOOLONG,
)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_engine(directory: Path) -> bool:
    """Whether a directory looks like an engine."""
    return (directory / ENGINE_FILE).is_file()


@contextlib.contextmanager
def atomic_directory(
    target: Path, is_ours: Callable[[Path], bool] = is_engine, what: str = "an engine directory"
) -> Iterator[Path]:
    """Yield a temporary directory beside `target` that takes its name when the block ends well.

    What is at `target` is replaced only then, and only if `is_ours` says that it is `what`.

    Raises:
        EngineError: `target` holds something else, or the disk is full or read-only.
    """
    if target.exists() and not is_ours(target) and not (target.is_dir() and not any(target.iterdir())):
        raise EngineError(f"{target} exists and is not {what}: choose another output with -o")
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        temporary.chmod(0o755)
        yield temporary
        _replace(target, temporary)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EngineError(
                f"no space left on the disk of {target.parent}: free some or choose another -o"
            ) from error
        if error.errno in _REFUSALS:
            raise EngineError(
                f"cannot write {target}: {os.strerror(error.errno)}, choose another output with -o"
            ) from error
        raise
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def _replace(target: Path, temporary: Path) -> None:
    """Give `temporary` the name of `target`; what had it comes back if that fails and is removed if it does not."""
    if not target.exists():
        temporary.rename(target)
        return
    replaced = temporary.with_name(temporary.name + ".old")
    target.rename(replaced)
    try:
        temporary.rename(target)
    except BaseException:
        replaced.rename(target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON with a final newline."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
