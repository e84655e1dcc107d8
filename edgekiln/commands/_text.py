"""Text that users give: arguments, files and stdin."""

import sys
from pathlib import Path

import click

from edgekiln.arguments import utf8
from edgekiln.errors import RequestError
from edgekiln.extras import requires_extra
from edgekiln.sources.named_texts import NAMED_TEXTS, download_text

BYTE_ORDER_MARK = "\ufeff"


class Text(click.ParamType):
    """An argument that a tokenizer encodes; arguments may contain bytes that are not UTF-8, which are refused."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value; RequestError where it is not UTF-8."""
        return utf8(value)


def named_text(name: str) -> str:
    """The text of a file, of stdin for `-`, or a text of `NAMED_TEXTS`, downloaded, where no file has that name.

    Raises:
        RequestError: it is not UTF-8.
        SourceError: it cannot be downloaded.
        OSError: it cannot be read.
    """
    if name == "-":
        return read_text(None)
    if name not in NAMED_TEXTS or Path(name).exists():
        return read_text(Path(name))
    from edgekiln.commands._output import progress_report

    with requires_extra("hub"), progress_report() as report:
        return _decoded(download_text(name, report), name)


def read_text(path: Path | None) -> str:
    """The text of a UTF-8 file, or of stdin where `path` is None, with its line ends and without a byte order mark.

    Raises:
        RequestError: it is not UTF-8.
        OSError: it cannot be read.
    """
    return _decoded(sys.stdin.buffer.read() if path is None else path.read_bytes(), path or "stdin")


def _decoded(data: bytes, name: Path | str) -> str:
    try:
        return data.decode("utf-8").removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise RequestError(f"{name} is not UTF-8 text (byte {error.start}): convert it first") from error


def read_prompt(path: Path | None) -> str:
    """The text of a file, or of stdin, without the end of its last line, which `echo` and editors add.

    Lines that end in CRLF end in LF. Errors are those of `read_text`.
    """
    return read_text(path).replace("\r\n", "\n").removesuffix("\n").removesuffix("\r")
