"""Prepare the measured models: the checkpoint, and each variant's conversion of it."""

from pathlib import Path

from rich.console import Console

from bench.common import checkpoints
from bench.engines.table import Variant

CONSOLE = Console(stderr=True, highlight=False)


def name_of(model: str) -> str:
    """File name stem of a model argument."""
    return model.rstrip("/").rpartition("/")[2]


def prepare(variants: list[Variant], model: str, out: Path, reuse: bool = False) -> tuple[Path, dict[str, Path]]:
    """Prepare the model of every variant in `out`.

    Args:
        variants: the measured variants.
        model: a model argument of `edgekiln engine`, or a name of `checkpoints.SHAPES`.
        out: directory to create.
        reuse: keep existing edgekiln engines. By default they are rebuilt, because edgekiln's code may have changed.

    Returns:
        The checkpoint directory, and the path of each variant's model by label.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / f"{name_of(model)}-hf"
    checkpoints.write(model, checkpoint)
    paths = {variant.label: out / f"{name_of(model)}{variant.suffix}" for variant in variants}
    for variant in variants:
        if (variant.ours and not reuse) or not paths[variant.label].exists():
            CONSOLE.print(f"preparing {name_of(model)}, {variant.label}")
            variant.prepare(model, checkpoint, paths[variant.label])
    return checkpoint, paths
