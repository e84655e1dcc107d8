"""A record of `cpu.py` as Markdown tables and as a plot."""

import statistics
from pathlib import Path
from typing import Any

UNITS = {"prefill_tokens_per_s": "prefill, tokens/s", "decode_tokens_per_s": "decode, tokens/s"}
# Of a table's columns: what is decoded follows a prompt of that many tokens.
COLUMNS = {"prefill_tokens_per_s": "prompt {}", "decode_tokens_per_s": "after {}"}
# A peer as exact as the best: its perplexity is at most this many times the lowest.
AS_EXACT = 1.02


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


def peers(record: dict[str, Any]) -> list[str]:
    """Labels of all but edgekiln."""
    return [label for label in record["results"] if label not in record["ours"]]


def exact_peers(record: dict[str, Any]) -> list[str]:
    """Those whose perplexity is within 2% of the lowest of everyone's; none where it was not measured."""
    scores = {label: result["perplexity"] for label, result in record["results"].items() if "perplexity" in result}
    return [label for label in peers(record) if label in scores and scores[label] <= AS_EXACT * min(scores.values())]


def best_of(record: dict[str, Any], labels: list[str], batch: int, prompt: int, unit: str) -> list[float]:
    """Values of the one whose median is highest; empty where there is none."""
    values = [_values(record, label, batch, prompt, unit) for label in labels]
    return max(values, key=statistics.median, default=[])


def _ratio(record: dict[str, Any], label: str, others: list[str], batch: int, prompt: int, unit: str) -> str:
    """To the best of the others, repeat by repeat: the median and the range; empty where there is none."""
    best = best_of(record, others, batch, prompt, unit)
    if not best:
        return ""
    values = _values(record, label, batch, prompt, unit)
    ratios = [ours / theirs for ours, theirs in zip(values, best, strict=True)]
    return f"× {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def _cell(record: dict[str, Any], label: str, batch: int, prompt: int, unit: str) -> str:
    text = f"{statistics.median(_values(record, label, batch, prompt, unit)):.0f}"
    others = peers(record) if label in record["ours"] else []
    return f"{text} {_ratio(record, label, others, batch, prompt, unit)}".rstrip()


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table, and an empty one."""
    lines = [f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows]]
    return [*lines, ""]


def markdown(record: dict[str, Any]) -> str:
    """Medians; edgekiln's with the ratio to the best peer of each column, and the ratio's range over the repeats.

    Where perplexity was measured, a second table has the ratio to the best of the peers that are as exact.
    """
    about = "{model}: {threads} threads of {processor}, {when}, {repeat} repeats, {gen_tokens} tokens generated"
    lines = [about.format(**record), ""]
    columns = workloads(record)
    exact = exact_peers(record)
    for unit, title in UNITS.items():
        named = [COLUMNS[unit].format(prompt if batch == 1 else f"{batch} × {prompt}") for batch, prompt in columns]
        cells = {label: [_cell(record, label, *column, unit) for column in columns] for label in record["results"]}
        lines += table([title, *named], [[label, *row] for label, row in cells.items()])
        if exact:
            rows = [
                [label, *(_ratio(record, label, exact, *column, unit) for column in columns)]
                for label in record["ours"]
            ]
            lines += [f"To the best of the peers whose perplexity is within 2% of the lowest ({', '.join(exact)}):", ""]
            lines += table([title, *named], rows)
    rows = []
    for label, figures in record["started"].items():
        load, cold = (statistics.median(figures[key]) * 1e3 for key in ("load_s", "cold_start_s"))
        # In C++ an engine has the files and the logits that it has in Python.
        result = record["results"].get(label, {})
        size = f"{result['size_mb']:.0f}" if result else ""
        score = f"{result['perplexity']:.2f}" if "perplexity" in result else "–" if result else ""
        rows.append(
            [label, f"{load:.0f}", f"{cold:.0f}", f"{statistics.median(figures['peak_rss_mb']):.0f}", size, score]
        )
    heads = ["", "load, ms", "start to first token, ms", "peak memory, MB", "files, MB", "perplexity"]
    lines += table(heads, rows)
    return "\n".join(lines)


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
