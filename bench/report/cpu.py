"""Results of the suite `cpu` as Markdown tables, as CSV and as a plot.

Run: python -m bench.report.cpu FILE.csv FILE.png draws the plot of a CSV again.
"""

import csv
import statistics
import sys
from pathlib import Path
from typing import Any

from bench.report.figure import new_figure, save_png

UNITS = {"prefill_tokens_per_s": "prefill, tokens/s", "decode_tokens_per_s": "decode, tokens/s"}
# Column headings; decode is measured after a prompt of that many tokens.
COLUMNS = {"prefill_tokens_per_s": "prompt {}", "decode_tokens_per_s": "after {}"}
# Peers of equal quality: perplexity at most this many times the lowest.
EQUAL_QUALITY = 1.02


def _values(result: dict[str, Any], label: str, batch: int, prompt: int, unit: str) -> list[float]:
    """Values of a label and workload, in the order of the repeats."""
    return [
        sample[unit]
        for sample in result["samples"]
        if (sample["label"], sample["batch"], sample["prompt"]) == (label, batch, prompt)
    ]


def workloads(result: dict[str, Any]) -> list[tuple[int, int]]:
    """Pairs of batch and prompt tokens, as measured."""
    return list(dict.fromkeys((sample["batch"], sample["prompt"]) for sample in result["samples"]))


def peers(result: dict[str, Any]) -> list[str]:
    """Labels of the variants that are not edgekiln."""
    return [label for label in result["results"] if label not in result["ours"]]


def equal_quality_peers(result: dict[str, Any]) -> list[str]:
    """Peers with a perplexity within 2% of the lowest; none where perplexity was not measured."""
    scores = {label: facts["perplexity"] for label, facts in result["results"].items() if "perplexity" in facts}
    return [
        label for label in peers(result) if label in scores and scores[label] <= EQUAL_QUALITY * min(scores.values())
    ]


def best_of(result: dict[str, Any], labels: list[str], batch: int, prompt: int, unit: str) -> list[float]:
    """Values of the label with the highest median; empty for no labels."""
    values = [_values(result, label, batch, prompt, unit) for label in labels]
    return max(values, key=statistics.median, default=[])


def _ratio(result: dict[str, Any], label: str, others: list[str], batch: int, prompt: int, unit: str) -> str:
    """Ratio to the best of `others`, taken repeat by repeat: median and range; empty for no others."""
    best = best_of(result, others, batch, prompt, unit)
    if not best:
        return ""
    values = _values(result, label, batch, prompt, unit)
    ratios = [ours / theirs for ours, theirs in zip(values, best, strict=True)]
    return f"× {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def _cell(result: dict[str, Any], label: str, batch: int, prompt: int, unit: str) -> str:
    text = f"{statistics.median(_values(result, label, batch, prompt, unit)):.0f}"
    others = peers(result) if label in result["ours"] else []
    return f"{text} {_ratio(result, label, others, batch, prompt, unit)}".rstrip()


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table, and an empty line."""
    lines = [f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows]]
    return [*lines, ""]


def markdown(result: dict[str, Any]) -> str:
    """Medians; edgekiln's with the ratio to the best peer of the column and its range over the repeats.

    Where perplexity was measured, a second table has the ratio to the best peer of equal quality.
    """
    about = "{model}: {threads} threads of {processor}, {when}, {repeat} repeats, {gen_tokens} tokens generated"
    lines = [about.format(**result), ""]
    columns = workloads(result)
    exact = equal_quality_peers(result)
    for unit, title in UNITS.items():
        named = [COLUMNS[unit].format(prompt if batch == 1 else f"{batch} × {prompt}") for batch, prompt in columns]
        cells = {label: [_cell(result, label, *column, unit) for column in columns] for label in result["results"]}
        lines += table([title, *named], [[label, *row] for label, row in cells.items()])
        if exact:
            rows = [
                [label, *(_ratio(result, label, exact, *column, unit) for column in columns)]
                for label in result["ours"]
            ]
            lines += [f"Ratio to the best peer with a perplexity within 2% of the lowest ({', '.join(exact)}):", ""]
            lines += table([title, *named], rows)
    rows = []
    for label, starts in result["started"].items():
        load, cold = (statistics.median(starts[key]) * 1e3 for key in ("load_s", "cold_start_s"))
        # Files and logits of an engine are the same in C++ as in Python.
        facts = result["results"].get(label, {})
        size = f"{facts['size_mb']:.0f}" if facts else ""
        score = f"{facts['perplexity']:.2f}" if "perplexity" in facts else "–" if facts else ""
        rows.append(
            [label, f"{load:.0f}", f"{cold:.0f}", f"{statistics.median(starts['peak_rss_mb']):.0f}", size, score]
        )
    heads = ["", "load, ms", "start to first token, ms", "peak memory, MB", "files, MB", "perplexity"]
    lines += table(heads, rows)
    return "\n".join(lines)


def write_csv(result: dict[str, Any], path: Path) -> None:
    """Medians at every workload; `ours` is 1 for edgekiln, `bound` the decode speed at which weights are read once."""
    sizes = [result["results"][label]["size_mb"] for label in result["ours"]]
    bound = result["read_gb_per_s"] * 1e3 / min(sizes) if sizes else 0.0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "ours", "batch", "prompt", *UNITS, "bound"])
        for label in result["results"]:
            for batch, prompt in workloads(result):
                medians = [statistics.median(_values(result, label, batch, prompt, unit)) for unit in UNITS]
                ours = int(label in result["ours"])
                writer.writerow([label, ours, batch, prompt, *(f"{value:.1f}" for value in medians), f"{bound:.1f}"])


def plot(table_file: Path, path: Path) -> None:
    """Draw speed against prompt length at batch size 1 as PNG, from the CSV of `write_csv`."""
    with table_file.open(newline="", encoding="utf-8") as file:
        points = [point for point in csv.DictReader(file) if point["batch"] == "1"]
    figure, panels = new_figure(1, 2, 12, 5)
    lengths = list(dict.fromkeys(int(point["prompt"]) for point in points))
    labels = list(dict.fromkeys(point["label"] for point in points))
    for panel, (unit, title) in zip(panels[0], UNITS.items(), strict=True):
        for index, label in enumerate(labels):
            own = [point for point in points if point["label"] == label]
            line = {"linewidth": 2.5} if own[0]["ours"] == "1" else {"linewidth": 1, "linestyle": "--"}
            values = [float(point[unit]) for point in own]
            panel.plot(lengths, values, marker="o", markersize=3, color=f"C{index}", label=label, **line)
        panel.set(xscale="log", yscale="log", xlabel="prompt tokens", ylabel=title, xticks=lengths)
        panel.set_xticklabels([str(length) for length in lengths])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    bound = float(points[0]["bound"])
    if bound:
        panels[0][1].axhline(bound, color="black", linewidth=1)
        panels[0][1].text(lengths[0], bound, "weights read once at memory bandwidth", va="bottom", fontsize=8)
    panels[0][0].legend(fontsize=8)
    save_png(figure, path)


if __name__ == "__main__":
    plot(Path(sys.argv[1]), Path(sys.argv[2]))
