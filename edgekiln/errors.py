"""Errors whose message a user reads: one sentence, the value and the fix. The command line prints it and exits 2."""


class EdgekilnError(Exception):
    """Base of every expected failure. `str(error)` is one clear sentence."""


class SourceError(EdgekilnError):
    """A model reference that cannot be found, read or trusted."""


class UnsupportedModelError(EdgekilnError):
    """A model with something the graph cannot carry yet; the message names it."""


class EngineError(EdgekilnError):
    """An engine directory that is missing, damaged, edited or from a newer edgekiln."""


class RequestError(EdgekilnError):
    """A generation request that cannot be served: empty or too long prompt, option out of range."""


def first_line(error: Exception | None) -> str:
    """The first line with something in it of a library's error, which may go on for pages; else its kind."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
