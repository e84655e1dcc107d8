"""A record of `speculation.py` as Markdown tables."""

import statistics
from typing import Any

from tables import table


def _samples(record: dict[str, Any], task: str, label: str, drafts: int | None) -> list[dict[str, Any]]:
    """Of each repeat in order."""
    wanted = (task, label, drafts)
    return [each for each in record["samples"] if (each["task"], each["label"], each["drafts"]) == wanted]


def _row(record: dict[str, Any], task: str, label: str, drafts: int | None) -> list[str]:
    samples, plain = _samples(record, task, label, drafts), _samples(record, task, label, 0)
    speed = f"{statistics.median(each['decode_tokens_per_s'] for each in samples):.0f}"
    if drafts == 0:
        return [label, speed, "", "", "", "", str(len(samples[0]["ids"]))]
    ratios = [
        each["decode_tokens_per_s"] / other["decode_tokens_per_s"] for each, other in zip(samples, plain, strict=True)
    ]
    ratio = f"× {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
    run = f"{statistics.median(each['tokens_per_run'] for each in samples):.2f}"
    accepted, drafted = (
        [each[key] for each in samples if each["drafted"] is not None] for key in ("accepted", "drafted")
    )
    share = "–"
    if drafted:
        share = f"{sum(accepted)} of {sum(drafted)}"
        if sum(drafted):
            share += f" ({100 * sum(accepted) / sum(drafted):.0f}%)"
    same = all(each["ids"] == other["ids"] for each, other in zip(samples, plain, strict=True))
    name = f"{label}, speculating" if drafts is None else f"{label}, lookup of {drafts}"
    return [name, speed, ratio, run, share, "yes" if same else "no", str(len(samples[0]["ids"]))]


def markdown(record: dict[str, Any]) -> str:
    """Medians; the ratio is to the same model without lookup, repeat by repeat, with its range."""
    about = "{model}: {threads} threads of {processor}, {when}, {repeat} repeats, at most {gen_tokens} tokens answered"
    lines = [about.format(**record), ""]
    for task, length in record["prompt_tokens"].items():
        heads = [f"{task}, prompt {length}", "decode, tokens/s", "to without", "tokens a run", "drafts accepted"]
        measured = dict.fromkeys((each["label"], each["drafts"]) for each in record["samples"])
        # The order of the first turn, which is everyone's own.
        rows = [_row(record, task, label, drafts) for label, drafts in measured]
        lines += table([*heads, "same answer", "its tokens"], rows)
    return "\n".join(lines)
