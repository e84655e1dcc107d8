"""A record of `curves.py` as Markdown tables and as plots."""

import statistics
from pathlib import Path
from typing import Any

from tables import table

UNITS = {
    "prefill_tokens_per_s": "prefill, tokens/s",
    "decode_tokens_per_s": "decode, tokens/s",
    "peak_rss_mb": "peak memory, MB",
}
Point = tuple[int, int]
# Of each line's label: where on the axis, which engine, and its (batch, prompt tokens).
Lines = dict[str, list[tuple[float, dict[str, Any], Point]]]


def value(record: dict[str, Any], engine: dict[str, Any], point: Point, unit: str) -> float:
    """Median over the repeats of an engine at (batch, prompt tokens)."""
    wanted = (engine["model"], engine["label"], *point)
    return statistics.median(
        sample[unit]
        for sample in record["samples"]
        if (sample["model"], sample["label"], sample["batch"], sample["prompt"]) == wanted
    )


def bound(record: dict[str, Any], engine: dict[str, Any], point: Point, unit: str) -> float | None:
    """What memory allows at most, or for memory at least; None of prefill, which computing bounds."""
    batch, prompt = point
    if unit == "decode_tokens_per_s":
        # The context grows while it is decoded: half of the tokens is the mean.
        held = batch * (prompt + record["gen_tokens"] / 2) * engine["key_value_bytes"]
        return batch * record["read_gb_per_s"] * 1e9 / (engine["step_weight_bytes"] + held)
    if unit == "peak_rss_mb":
        held = batch * (prompt + record["gen_tokens"]) * engine["key_value_bytes"]
        return (engine["weights_file_bytes"] + held) / 1e6
    return None


def points(record: dict[str, Any]) -> list[Point]:
    """Pairs of batch and prompt tokens, as measured."""
    return list(dict.fromkeys((sample["batch"], sample["prompt"]) for sample in record["samples"]))


def markdown(record: dict[str, Any]) -> str:
    """Medians, and after a stroke the bound."""
    about = "{threads} threads of {processor}, {when}, {repeat} repeats, {gen_tokens} tokens generated, "
    lines = [(about + "{read_gb_per_s:.1f} GB/s read at most").format(**record), ""]
    columns = points(record)
    for unit, title in UNITS.items():
        column = "after {}" if unit == "decode_tokens_per_s" else "prompt {}"
        named = [column.format(prompt if batch == 1 else f"{batch} × {prompt}") for batch, prompt in columns]
        rows = []
        for engine in record["engines"]:
            cells = []
            for point in columns:
                limit = bound(record, engine, point, unit)
                cells.append(f"{value(record, engine, point, unit):.0f}" + (f" / {limit:.0f}" if limit else ""))
            rows.append([f"{engine['model']}, {engine['label'].removeprefix('edgekiln ')}", *cells])
        head = title if unit == "prefill_tokens_per_s" else f"{title} / bound"
        lines += table([head, *named], rows)
    return "\n".join(lines)


def plot(record: dict[str, Any], directory: Path, name: str) -> list[Path]:
    """Write one SVG for each axis of which more than one value was measured.

    Returns:
        The files.
    """
    engines, measured = record["engines"], points(record)
    models = list(dict.fromkeys(engine["model"] for engine in engines))
    prompts = sorted(point for point in measured if point[0] == 1)
    batches = sorted(point for point in measured if point[1] == record["batch_prompt"])
    # Models are compared on one row, of the prompt that batches have if it was measured.
    one = min(measured, key=lambda point: (point[0], abs(point[1] - record["batch_prompt"])))

    def of_model(model: str, along: list[Point], axis: int) -> Lines:
        its = [engine for engine in engines if engine["model"] == model]
        return {engine["label"]: [(point[axis], engine, point) for point in along] for engine in its}

    sizes: Lines = {}
    for engine in sorted(engines, key=lambda engine: engine["parameters"]):
        sizes.setdefault(engine["label"], []).append((engine["parameters"] / 1e6, engine, one))
    figures: dict[str, tuple[str, list[Point] | list[str], dict[str, Lines]]] = {
        "prompt": ("prompt tokens", prompts, {model: of_model(model, prompts, 1) for model in models}),
        "batch": (
            f"rows of {record['batch_prompt']} tokens",
            batches,
            {model: of_model(model, batches, 0) for model in models},
        ),
        "model": ("million parameters", models, {f"{one[0]} × {one[1]} tokens": sizes}),
    }
    written = []
    for axis, (title, values, panels) in figures.items():
        if len(values) > 1:
            written.append(directory / f"{name}-{axis}.svg")
            _draw(record, panels, title, written[-1], logarithmic=axis == "model")
    return written


def _draw(record: dict[str, Any], rows: dict[str, Lines], title: str, path: Path, logarithmic: bool) -> None:
    """A row of panels for each of `rows`, a column for each unit; bounds are dotted, in their line's colour."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        len(rows), len(UNITS), figsize=(4.5 * len(UNITS), 3.5 * len(rows)), layout="constrained", squeeze=False
    )
    for panels, (name, lines) in zip(grid, rows.items(), strict=True):
        for panel, (unit, what) in zip(panels, UNITS.items(), strict=True):
            for index, (label, line) in enumerate(lines.items()):
                where = [x for x, _, _ in line]
                values = [value(record, engine, point, unit) for _, engine, point in line]
                limits = [bound(record, engine, point, unit) for _, engine, point in line]
                panel.plot(where, values, marker="o", markersize=3, color=f"C{index}", label=label)
                if None not in limits:
                    panel.plot(where, limits, linestyle=":", color=f"C{index}", label=f"{label}, bound")
                panel.set(
                    xscale="log",
                    yscale="log" if logarithmic else "linear",
                    xlabel=title,
                    ylabel=what,
                    title=name,
                    xticks=where,
                )
                panel.set_xticklabels([f"{x:.0f}" for x in where])
            panel.minorticks_off()
            if not logarithmic:
                panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
    grid[0][1].legend(fontsize=7)
    figure.savefig(path)
    pyplot.close(figure)
