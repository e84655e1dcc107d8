"""The models that are measured, made where they are not there."""

from pathlib import Path

import checkpoints
from candidates import Candidate
from rich.console import Console

CONSOLE = Console(stderr=True, highlight=False)


def name_of(model: str) -> str:
    """What the files of a model are called."""
    return model.rstrip("/").rpartition("/")[2]


def make_models(everyone: list[Candidate], model: str, out: Path, reuse: bool = False) -> tuple[Path, dict[str, Path]]:
    """Make every candidate's model in `out`.

    Args:
        everyone: who is measured.
        model: what `edgekiln engine` takes, or a shape of `checkpoints.SHAPES`.
        out: a directory, which is made.
        reuse: take engines of edgekiln's that are there. Without, they are made anew, because its code may have
            changed.

    Returns:
        The model as a Hugging Face directory, and the path of each candidate's model by its label.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / f"{name_of(model)}-hf"
    checkpoints.write(model, checkpoint)
    paths = {each.label: out / f"{name_of(model)}{each.suffix}" for each in everyone}
    for each in everyone:
        if (each.ours and not reuse) or not paths[each.label].exists():
            CONSOLE.print(f"making {name_of(model)}, {each.label}")
            each.make(model, checkpoint, paths[each.label])
    return checkpoint, paths
