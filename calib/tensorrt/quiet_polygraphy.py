"""Keep polygraphy from printing. It also raises every error that it would print."""

import importlib.util

from edgekiln.errors import EdgekilnError


def require_polygraphy(feature: str, fix: str) -> None:
    """Check that polygraphy is installed, and silence it for this process.

    Args:
        feature: that needs it, for the message.
        fix: how to install it, for the message.

    Raises:
        EdgekilnError: it is not installed.
    """
    if importlib.util.find_spec("polygraphy") is None:
        raise EdgekilnError(f"{feature} needs the module polygraphy: {fix}")
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL + 1
