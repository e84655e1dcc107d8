"""Text that users give: arguments, files and stdin."""

import sys
from pathlib import Path

import click

from edgekiln.arguments import utf8
from edgekiln.errors import RequestError


class Text(click.ParamType):
    """An argument that a tokenizer encodes; arguments may contain bytes that are not UTF-8, which are refused."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value; RequestError where it is not UTF-8."""
        return utf8(value)


def read_text(path: Path | None) -> str:
    """The text of a UTF-8 file with its line ends unchanged; that of stdin where `path` is None.

    Raises:
        RequestError: it is not UTF-8.
        OSError: it cannot be read.
    """
    data = sys.stdin.buffer.read() if path is None else path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path or 'stdin'} is not UTF-8 text (byte {error.start}): convert it first") from error
