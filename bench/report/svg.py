"""Plots as small SVG files that are the same for the same data."""

from pathlib import Path
from typing import Any


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A matplotlib figure of that size in inches, and its axes [rows, columns]."""
    import matplotlib as mpl

    mpl.use("svg")
    # Text stays text (no glyph outlines), and ids are hashed from the content instead of drawn at random.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "edgekiln", "path.simplify": True})
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)


def save_svg(figure: Any, path: Path) -> None:
    """Write the figure without its date, and release it."""
    from matplotlib import pyplot

    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
