"""Results of the suite `curves` as Markdown tables, as CSV and as plots.

Run: python -m bench.report.curves FILE.csv DIRECTORY NAME draws the plots of a CSV again.
"""

import csv
import statistics
import sys
from pathlib import Path
from typing import Any

from bench.report.cpu import table
from bench.report.figure import new_figure, save_png

UNITS = {
    "prefill_tokens_per_s": "prefill, tokens/s",
    "decode_tokens_per_s": "decode, tokens/s",
    "peak_rss_mb": "peak memory, MB",
}
Point = tuple[int, int]  # batch size, prompt tokens
Row = dict[str, str]  # of the CSV
Lines = dict[str, list[tuple[float, Row]]]  # label -> points (x, row)


def value(result: dict[str, Any], engine: dict[str, Any], point: Point, unit: str) -> float:
    """Median over the repeats of an engine at a point."""
    wanted = (engine["model"], engine["label"], *point)
    return statistics.median(
        sample[unit]
        for sample in result["samples"]
        if (sample["model"], sample["label"], sample["batch"], sample["prompt"]) == wanted
    )


def bound(result: dict[str, Any], engine: dict[str, Any], point: Point, unit: str) -> float | None:
    """Upper bound of decode by memory bandwidth, lower bound of memory; None for prefill, which is compute-bound."""
    batch, prompt = point
    if unit == "decode_tokens_per_s":
        # The context grows while decoding: its mean length is the prompt plus half of the generated tokens.
        held = batch * (prompt + result["gen_tokens"] / 2) * engine["key_value_bytes"]
        return batch * result["read_gb_per_s"] * 1e9 / (engine["step_weight_bytes"] + held)
    if unit == "peak_rss_mb":
        held = batch * (prompt + result["gen_tokens"]) * engine["key_value_bytes"]
        return (engine["weights_file_bytes"] + held) / 1e6
    return None


def points(result: dict[str, Any]) -> list[Point]:
    """The measured points, in order."""
    return list(dict.fromkeys((sample["batch"], sample["prompt"]) for sample in result["samples"]))


def markdown(result: dict[str, Any]) -> str:
    """Medians, followed by \"/ bound\" where there is a bound."""
    about = "{threads} threads of {processor}, {when}, {repeat} repeats, {gen_tokens} tokens generated, "
    lines = [(about + "{read_gb_per_s:.1f} GB/s of read bandwidth").format(**result), ""]
    columns = points(result)
    for unit, title in UNITS.items():
        column = "after {}" if unit == "decode_tokens_per_s" else "prompt {}"
        named = [column.format(prompt if batch == 1 else f"{batch} × {prompt}") for batch, prompt in columns]
        rows = []
        for engine in result["engines"]:
            cells = []
            for point in columns:
                limit = bound(result, engine, point, unit)
                cells.append(f"{value(result, engine, point, unit):.0f}" + (f" / {limit:.0f}" if limit else ""))
            rows.append([f"{engine['model']}, {engine['label'].removeprefix('edgekiln ')}", *cells])
        head = title if unit == "prefill_tokens_per_s" else f"{title} / bound"
        lines += table([head, *named], rows)
    return "\n".join(lines)


def write_csv(result: dict[str, Any], path: Path) -> None:
    """Medians and bounds of every engine at every point; a bound is empty for prefill."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "label", "parameters", "batch", "prompt", *UNITS, *map(bound_of, UNITS)])
        for engine in result["engines"]:
            for point in points(result):
                values = [f"{value(result, engine, point, unit):.1f}" for unit in UNITS]
                limits = [bound(result, engine, point, unit) for unit in UNITS]
                row = [engine["model"], engine["label"], engine["parameters"], *point, *values]
                writer.writerow([*row, *("" if limit is None else f"{limit:.1f}" for limit in limits)])


def bound_of(unit: str) -> str:
    """Name of the CSV column that bounds a unit."""
    return f"{unit}_bound"


def plot(table_file: Path, directory: Path, name: str) -> list[Path]:
    """Draw one PNG per axis with more than one value, from the CSV of `write_csv`; returns the files."""
    with table_file.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    models = list(dict.fromkeys(row["model"] for row in rows))
    # The prompt length that was measured with several batch sizes.
    batch_prompt = max((int(row["prompt"]) for row in rows if row["batch"] != "1"), default=0) or int(rows[0]["prompt"])

    def lines(chosen: list[Row], axis: str, scale: float = 1.0) -> Lines:
        found: Lines = {}
        for row in chosen:
            found.setdefault(row["label"], []).append((float(row[axis]) / scale, row))
        return found

    single = [row for row in rows if row["batch"] == "1"]
    batches = [row for row in rows if int(row["prompt"]) == batch_prompt]
    sizes = sorted(
        (row for row in single if int(row["prompt"]) == batch_prompt), key=lambda row: int(row["parameters"])
    )
    figures = {
        "prompt": ("prompt tokens", {model: lines(_of(single, model), "prompt") for model in models}),
        "batch": (f"batch size, {batch_prompt} tokens each", {m: lines(_of(batches, m), "batch") for m in models}),
        "model": ("million parameters", {f"1 × {batch_prompt} tokens": lines(sizes, "parameters", 1e6)}),
    }
    written = []
    for axis, (title, panels) in figures.items():
        values = {x for panel in panels.values() for line in panel.values() for x, _ in line}
        if len(values) > 1:
            written.append(directory / f"{name}-{axis}.png")
            _draw(panels, title, written[-1], logarithmic=axis == "model")
    return written


def _of(rows: list[Row], model: str) -> list[Row]:
    return [row for row in rows if row["model"] == model]


def _draw(panels: dict[str, Lines], title: str, path: Path, logarithmic: bool) -> None:
    """One row of axes per panel, one column per unit; bounds are dotted, in the color of their line."""
    figure, grid = new_figure(len(panels), len(UNITS), 4.5 * len(UNITS), 3.5 * len(panels))
    for axes, (name, lines) in zip(grid, panels.items(), strict=True):
        for axis, (unit, what) in zip(axes, UNITS.items(), strict=True):
            for index, (label, line) in enumerate(lines.items()):
                where = [x for x, _ in line]
                color = f"C{index}"
                axis.plot(where, [float(row[unit]) for _, row in line], "o-", markersize=3, color=color, label=label)
                if all(row[bound_of(unit)] for _, row in line):
                    limits = [float(row[bound_of(unit)]) for _, row in line]
                    axis.plot(where, limits, linestyle=":", color=color, label=f"{label}, bound")
                scale = "log" if logarithmic else "linear"
                axis.set(xscale="log", yscale=scale, xlabel=title, ylabel=what, title=name, xticks=where)
                axis.set_xticklabels([f"{x:.0f}" for x in where])
            axis.minorticks_off()
            if not logarithmic:
                axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
    grid[0][1].legend(fontsize=7)
    save_png(figure, path)


if __name__ == "__main__":
    plot(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
