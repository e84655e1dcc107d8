"""Errors that a user can fix: one sentence with the value and the fix. The command line prints it and exits with 2."""

import errno


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
    """The first 200 characters of a library's error message as one line; the exception's class if it is empty."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def is_disk_full(error: OSError) -> bool:
    """Whether an error of the operating system says that a disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
