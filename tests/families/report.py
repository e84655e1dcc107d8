"""The report of a sweep, docs/families.md: written, read again, and compared with another."""

import re
from collections.abc import Mapping

from families.check import TOLERANCE, Class, Outcome

_HEADINGS: dict[Class, tuple[str, str, str]] = {
    "right": ("Right", "relative error", "The engine's logits are those of transformers."),
    "wrong": ("Wrong", "relative error", "Defects: the engine's logits are others than those of transformers."),
    "traceback": ("Traceback", "error", "Defects: edgekiln fails and does not say why in one of its errors."),
    "refused": ("Refused", "reason", "`edgekiln engine` says so and exits with 2."),
    "not configurable": ("Not configurable", "reason", "transformers itself does not run a tiny model of these here."),
    "not a decoder": ("Not a decoder", "reason", "Logits depend on later tokens, or are not of a text."),
}
_INTRODUCTION = """\
# Model types

What becomes of each causal model type of transformers {version} ({types} types): `{command}` tries each as a
tiny random model. *Right* means that the engine of target ort-cpu with float32 weights gives the logits of
transformers to {tolerance:g} of their norm, in a prefill at once, in a prefill in chunks, in decode steps and in a
ragged batch, with edgekiln's kernels and with those of ONNX Runtime. Where an indexer chooses
the keys of attention, that holds for sequences with no more tokens than it chooses, see
[targets.md](targets.md#kinds-of-attention).
The configurations are rows of [tests/families/configs.py](../tests/families/configs.py).

| | types |
| --- | --- |
{totals}
"""


def totals(outcomes: Mapping[str, Outcome]) -> dict[Class, int]:
    """Number of types of each class, in the order of the report."""
    return {kind: sum(outcome.kind == kind for outcome in outcomes.values()) for kind in _HEADINGS}


def write(outcomes: Mapping[str, Outcome], version: str, command: str) -> str:
    """The report as Markdown."""
    rows = "\n".join(f"| {_HEADINGS[kind][0].lower()} | {count} |" for kind, count in totals(outcomes).items())
    parts = [
        _INTRODUCTION.format(version=version, types=len(outcomes), command=command, tolerance=TOLERANCE, totals=rows)
    ]
    for kind, (heading, column, text) in _HEADINGS.items():
        names = sorted(name for name, outcome in outcomes.items() if outcome.kind == kind)
        if names:
            lines = [f"| `{name}` | {_cell(outcomes[name].detail)} |" for name in names]
            parts.append(
                "\n".join([f"## {heading}", "", text, "", f"| type | {column} |", "| --- | --- |", *lines, ""])
            )
    return "\n".join(parts)


def read(text: str) -> dict[str, Outcome]:
    """The outcomes in a report that `write` made."""
    kinds = {heading: kind for kind, (heading, _, _) in _HEADINGS.items()}
    outcomes, kind = {}, None
    for line in text.splitlines():
        if line.startswith("## "):
            kind = kinds.get(line.removeprefix("## "))
        elif kind and line.startswith("| `"):
            name, detail = line.removeprefix("| `").removesuffix(" |").split("` | ", 1)
            outcomes[name] = Outcome(kind, detail)
    return outcomes


def version(text: str) -> str:
    """The version of transformers in a report that `write` made; empty if the text is none."""
    found = re.search(r"of transformers (\S+) \(", text)
    return found[1] if found else ""


def changes(old: Mapping[str, Outcome], new: Mapping[str, Outcome]) -> list[str]:
    """A line for each type that is new or gone, or whose class changed."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, after = (found[name].kind if name in found else None for found in (old, new))
        if before == after:
            continue
        lines.append(f"{name}: {before or 'new'} -> {f'{after} ({new[name].detail})' if after else 'gone'}")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
