"""polygraphy, kept from printing: what it would print as critical it raises too."""

import importlib.util

from edgekiln.errors import EdgekilnError


def need_polygraphy(what: str, fix: str) -> None:
    """Silence polygraphy for this process.

    Args:
        what: that cannot be done without it.
        fix: how to install it.

    Raises:
        EdgekilnError: it is not installed.
    """
    if importlib.util.find_spec("polygraphy") is None:
        raise EdgekilnError(f"{what} needs the module polygraphy: {fix}")
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL + 1
