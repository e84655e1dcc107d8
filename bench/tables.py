"""A record of `cpu.py` as Markdown tables and as a plot."""

import statistics
from pathlib import Path
from typing import Any

UNITS = {"prefill_tokens_per_s": "prefill, tokens/s", "decode_tokens_per_s": "decode, tokens/s"}


def _values(record: dict[str, Any], label: str, batch: int, prompt: int, unit: str) -> list[float]:
    """Of each repeat in order."""
    return [
        sample[unit]
        for sample in record["samples"]
        if (sample["label"], sample["batch"], sample["prompt"]) == (label, batch, prompt)
    ]


def workloads(record: dict[str, Any]) -> list[tuple[int, int]]:
    """Pairs of batch and prompt tokens, as measured."""
    return list(dict.fromkeys((sample["batch"], sample["prompt"]) for sample in record["samples"]))


def best_peer(record: dict[str, Any], batch: int, prompt: int, unit: str) -> list[float]:
    """Values of the peer whose median is highest; empty where no peer was measured."""
    peers = [label for label in record["results"] if label not in record["ours"]]
    values = [_values(record, label, batch, prompt, unit) for label in peers]
    return max(values, key=statistics.median, default=[])


def _cell(record: dict[str, Any], label: str, batch: int, prompt: int, unit: str) -> str:
    values = _values(record, label, batch, prompt, unit)
    text = f"{statistics.median(values):.0f}"
    best = best_peer(record, batch, prompt, unit)
    if label not in record["ours"] or not best:
        return text
    ratios = [ours / theirs for ours, theirs in zip(values, best, strict=True)]
    return f"{text} × {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def markdown(record: dict[str, Any]) -> str:
    """Medians; edgekiln's with the ratio to the best peer of each column, and the ratio's range over the repeats."""
    about = "{model}: {threads} threads of {processor}, {when}, {repeat} repeats, {gen_tokens} tokens generated"
    lines = [about.format(**record), ""]
    columns = workloads(record)
    for unit, title in UNITS.items():
        heads = [title, *(f"prompt {prompt}" if batch == 1 else f"{batch} × {prompt}" for batch, prompt in columns)]
        lines += [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
        for label in record["results"]:
            cells = [label, *(_cell(record, label, *column, unit) for column in columns)]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += [
        "| | load, ms | start to first token, ms | peak memory, MB | files, MB | perplexity |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for label, result in record["results"].items():
        load, cold = (statistics.median(result[key]) * 1e3 for key in ("load_s", "cold_start_s"))
        memory = statistics.median(result["peak_rss_mb"])
        score = f"{result['perplexity']:.2f}" if "perplexity" in result else "–"
        lines.append(f"| {label} | {load:.0f} | {cold:.0f} | {memory:.0f} | {result['size_mb']:.0f} | {score} |")
    return "\n".join(lines) + "\n"


def plot(record: dict[str, Any], path: Path) -> None:
    """Speed against prompt length at batch 1 as SVG, with what reading the weights bounds decode at."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(12, 5), layout="constrained")
    lengths = [prompt for batch, prompt in workloads(record) if batch == 1]
    for panel, (unit, title) in zip(panels, UNITS.items(), strict=True):
        for index, label in enumerate(record["results"]):
            values = [statistics.median(_values(record, label, 1, length, unit)) for length in lengths]
            ours = label in record["ours"]
            line = {"linewidth": 2.5} if ours else {"linewidth": 1, "linestyle": "--"}
            panel.plot(lengths, values, marker="o", markersize=3, color=f"C{index}", label=label, **line)
        panel.set(xscale="log", yscale="log", xlabel="prompt tokens", ylabel=title, xticks=lengths)
        panel.set_xticklabels([str(length) for length in lengths])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    sizes = [record["results"][label]["size_mb"] for label in record["ours"]]
    if sizes:
        bound = record["read_gb_per_s"] * 1e3 / min(sizes)
        panels[1].axhline(bound, color="black", linewidth=1)
        panels[1].text(lengths[0], bound, "weights read once at memory's speed", va="bottom", fontsize=8)
    panels[0].legend(fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)
