"""The engine directory on disk: file names, hashes, and atomic writing.

An engine is written to a temporary directory beside the target, which then takes the target's name. An interrupted
build therefore leaves no partial engine, and a reader finds either the old engine or the new one.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from edgekiln.engine.output_path import check_inputs, output_path
from edgekiln.engine.temporary import (
    REPLACED,
    lock,
    remove_directory,
    rename_in_message,
    temporary_directory,
)
from edgekiln.errors import EdgekilnError, EngineError, is_disk_full

ENGINE_FILE = "engine.json"
WEIGHTS_FILE = "weights.bin"
TOKENIZER_FILE = "tokenizer.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
CHAT_SEGMENTS_FILE = "chat_segments.json"  # the chat template for programs without Jinja, if it can be expressed so
QUANTIZATION_FILE = "quantization.json"
REPORT_FILE = "report.json"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# <linux/fs.h> and <fcntl.h>
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_engine(directory: Path) -> bool:
    """Whether a directory has an engine.json."""
    return (directory / ENGINE_FILE).is_file()


def check_output(
    output: Path,
    is_ours: Callable[[Path], bool] = is_engine,
    what: str = "an engine directory",
    reads: Iterable[Path] = (),
) -> Path:
    """Check that `atomic_directory` can replace what is at `output`, before anything slow is done.

    Args:
        output, is_ours, what, reads: as for `atomic_directory`.

    Returns:
        The path that `output` names, absolute and without symbolic links.

    Raises:
        EngineError: as for `atomic_directory`.
    """
    target = output_path(output)
    try:
        empty = not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir()))
    except OSError as error:
        raise _write_error(error, output) from error
    if not empty and not is_ours(target):
        raise EngineError(f"{output} exists and is not {what}: choose another output with -o")
    check_inputs(output, target, reads)
    return target


@contextlib.contextmanager
def atomic_directory(
    output: Path,
    is_ours: Callable[[Path], bool] = is_engine,
    what: str = "an engine directory",
    reads: Iterable[Path] = (),
) -> Iterator[Path]:
    """Yield a temporary directory beside `output`, which takes the name of `output` if the block raises nothing.

    An existing directory is replaced only then, and only if it is empty or `is_ours`. Where `output` is a symbolic
    link, the directory that it points to is written. Of several processes that write one output, the last one wins.

    Args:
        output: the directory to write, as the user named it.
        is_ours: whether an existing directory may be replaced; may raise EngineError to say why not.
        what: what `is_ours` recognizes, for the error message.
        reads: inputs of the block, which replacing the directory must not delete.

    Raises:
        EngineError: `output` is something else, or the disk is full or read-only.
    """
    reads = tuple(reads)
    target = check_output(output, is_ours, what, reads)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_directory(target) as temporary:
            temporary.chmod(0o755)
            yield temporary
            check_output(target, is_ours, what, reads)
            _publish(temporary, target)
    except Exception as error:
        failure = error if isinstance(error, OSError) else _os_error(error)
        # Without a temporary directory, the block has not begun.
        if failure is not None and (temporary is None or _is_of_output(failure, target, temporary)):
            raise _write_error(failure, output) from error
        if temporary is not None:
            rename_in_message(error, temporary, str(output))
        raise


def _os_error(error: Exception) -> OSError | None:
    """The error of the operating system that a library in Rust, such as safetensors, reports as text."""
    number = None if isinstance(error, EdgekilnError) else re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), "") if number else None


def _is_of_output(error: OSError, target: Path, temporary: Path) -> bool:
    """Whether an error is about writing the output, and not about another file, which the block reads."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    if not names or is_disk_full(error):
        return True
    paths = [Path(name) for name in names]
    return any(temporary in (path, *path.parents) or path == target or path in target.parents for path in paths)


def _write_error(error: OSError, output: Path) -> EngineError:
    if is_disk_full(error):
        return EngineError(f"no space left on the disk of {output.parent}: free some or choose another directory")
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return EngineError(f"cannot write {output}: {reason}, choose another output with -o")


def _publish(temporary: Path, target: Path) -> None:
    """Give `temporary` the name `target`, in one step where the system can exchange two names.

    A directory that had the name `target` is removed, or has the name `temporary` afterwards.
    """
    try:
        os.rename(temporary, target)  # also replaces an empty directory
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if _exchange(temporary, target):
        return
    with lock(target.parent):
        replaced = temporary.with_name(temporary.name + REPLACED)
        os.rename(target, replaced)
        try:
            os.rename(temporary, target)
        except BaseException:
            os.rename(replaced, target)
            raise
    remove_directory(replaced)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names of one directory atomically, with renameat2(2). False where that is not possible."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return rename is not None and (
        rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0
    )


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON that ends in a newline.

    Lone surrogates, which stand for the bytes of file names that are not UTF-8, become U+FFFD.
    """
    text = _LONE_SURROGATE.sub("\ufffd", json.dumps(value, indent=1, ensure_ascii=False))
    path.write_text(text + "\n", encoding="utf-8")
