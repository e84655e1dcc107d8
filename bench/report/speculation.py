"""Results of the suite `speculation` as Markdown tables."""

import statistics
from typing import Any

from bench.report.cpu import table


def _samples(result: dict[str, Any], task: str, label: str, drafts: int | None) -> list[dict[str, Any]]:
    """Samples of one setting, in the order of the repeats."""
    wanted = (task, label, drafts)
    return [each for each in result["samples"] if (each["task"], each["label"], each["drafts"]) == wanted]


def _row(result: dict[str, Any], task: str, label: str, drafts: int | None) -> list[str]:
    samples, plain = _samples(result, task, label, drafts), _samples(result, task, label, 0)
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


def markdown(result: dict[str, Any]) -> str:
    """Medians; ratios are to the same variant without prompt lookup, repeat by repeat, with their range."""
    about = "{model}: {threads} threads of {processor}, {when}, {repeat} repeats, at most {gen_tokens} tokens answered"
    lines = [about.format(**result), ""]
    for task, length in result["prompt_tokens"].items():
        heads = [f"{task}, prompt {length}", "decode, tokens/s", "vs. without", "tokens per run", "drafts accepted"]
        measured = dict.fromkeys((each["label"], each["drafts"]) for each in result["samples"])
        # The first repeat measures in the order of the table of engines.
        rows = [_row(result, task, label, drafts) for label, drafts in measured]
        lines += table([*heads, "same answer", "tokens"], rows)
    return "\n".join(lines)
