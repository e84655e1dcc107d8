"""The engine directory on disk: file names, hashes, and atomic writing.

An engine is written to a temporary directory beside the target, which is then renamed. An interrupted build therefore
leaves no partial engine.
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
CHAT_SEGMENTS_FILE = "chat_segments.json"  # the chat template for programs without Jinja, if it can be expressed so
QUANTIZATION_FILE = "quantization.json"
REPORT_FILE = "report.json"
_REFUSALS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,  # a parent of the target is a file
    errno.ENAMETOOLONG,
)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_engine(directory: Path) -> bool:
    """Whether a directory has an engine.json."""
    return (directory / ENGINE_FILE).is_file()


@contextlib.contextmanager
def atomic_directory(
    target: Path, is_ours: Callable[[Path], bool] = is_engine, what: str = "an engine directory"
) -> Iterator[Path]:
    """Yield a temporary directory beside `target`; rename it to `target` if the block raises nothing.

    An existing `target` is replaced only then, and only if it is an empty directory or `is_ours`.

    Args:
        target: the directory to write.
        is_ours: whether an existing directory may be replaced.
        what: what `is_ours` recognizes, for the error message.

    Raises:
        EngineError: `target` is something else, or the disk is full or read-only.
    """
    if os.path.exists(target) and not is_ours(target) and not (target.is_dir() and not any(target.iterdir())):
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
    """Rename `temporary` to `target`. The old directory is restored if that fails, and removed otherwise."""
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
    """Write `value` as indented UTF-8 JSON that ends in a newline."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
