"""Plots as PNG files beside the CSV that they are drawn from; the same CSV gives the same bytes."""

from pathlib import Path
from typing import Any

DPI = 100


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A matplotlib figure of that size in inches, and its axes [rows, columns]."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)


def save_png(figure: Any, path: Path) -> None:
    """Write the figure without metadata (date, version), and release it."""
    from matplotlib import pyplot

    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    pyplot.close(figure)
