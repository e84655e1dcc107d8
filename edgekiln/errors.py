"""Errors that a user can fix: one sentence with the value and the fix. The command line prints it and exits with 2."""

import errno
import re

# As in <class 'int'>, <function relu at 0x7f00>, <torch.Size object at 0x7f00> and ValueError('x').
_OBJECT = re.compile(
    r"<class '(?P<type>[^']*)'>|<(?:function |bound method )?(?P<name>[\w.]+)(?: object)? at 0x[0-9a-f]+>"
    r"|\b\w*(?:Error|Exception)(?=\()"
)


class EdgekilnError(Exception):
    """Base class of every expected failure; `str(error)` is one sentence."""


class SourceError(EdgekilnError):
    """A model that cannot be found or read, or that is not trusted."""


class UnsupportedModelError(EdgekilnError):
    """A model with something that edgekiln or the target does not support yet; the message names it."""


class EngineError(EdgekilnError):
    """An engine directory that is missing, damaged, edited or of another schema version."""


class RequestError(EdgekilnError):
    """An argument that is out of range, or a request that cannot be served, such as a prompt that is too long."""


def first_line(error: Exception | None) -> str:
    """The first line of a library's error message that is not blank; the exception's class if the message is empty."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def one_line(error: Exception) -> str:
    """The first 200 characters of a library's error message as one line; the exception's class if it is empty.

    Python's notation for classes and objects is replaced by their names.
    """
    text = _OBJECT.sub(lambda match: match["type"] or match["name"] or "", " ".join(str(error).split()))
    return text[:200] or type(error).__name__


def is_disk_full(error: OSError) -> bool:
    """Whether an error of the operating system says that a disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
