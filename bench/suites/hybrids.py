"""Speed of hybrid and recurrent models of about 350 million parameters against a plain decoder of that size.

All have random weights, and are measured in rotating order in one run. Ratios are of times, turn by turn: 1.3 means
that the hybrid takes 1.3 times as long as the plain model. Other programs on the machine slow down some steps of an
answer but rarely all: a sample of decode is the 10th percentile of the times of its steps, and one of prefill the
fastest of several prompts.

Run: python -m bench.suites.hybrids --help
"""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.common.environment import environment
from bench.common.hybrid_shapes import HYBRID_SHAPES, PLAIN
from bench.common.models import CONSOLE, name_of, prepare
from bench.common.options import names, run_options
from bench.common.processes import EngineProcess, Ids
from bench.engines.table import edgekiln_variants
from bench.report.cpu import table
from edgekiln.engine.manifest import read_manifest

NAME = "hybrids"
# Column -> prompt tokens, and the tokens generated after them, which are timed; 0 times the prompt.
COLUMNS = {"decode after 32": (32, 48), "decode after 448": (448, 48), "prefill 256": (256, 0)}
PROMPTS = 3  # timed of each engine and turn
QUANTILE = 0.1  # of the times of steps


def tokens_per_s(process: EngineProcess, prompts: Ids, generated: int) -> float:
    """One sample for int64[1, P] prompt ids."""
    if generated:
        return 1 / float(np.quantile(process.generate(prompts, generated + 1)["step_s"], QUANTILE))
    return prompts.size / min(process.generate(prompts, 1)["first_token_s"] for _ in range(PROMPTS))


def measure(processes: Mapping[tuple[str, str], EngineProcess], vocab: int, repeat: int) -> list[dict[str, Any]]:
    """Every engine and column once a turn, in rotating order; `processes` are suspended and loaded, by model, label."""
    samples = []
    order = list(processes)
    for turn in range(repeat):
        first = turn % len(order)
        for column, (length, generated) in COLUMNS.items():
            prompts = np.random.default_rng(turn).integers(0, vocab, (1, length))
            for model, label in order[first:] + order[:first]:
                process = processes[model, label]
                process.resume()
                process.generate(prompts[:, :16], 4)
                speed = tokens_per_s(process, prompts, generated)
                process.suspend()
                samples.append({"model": model, "label": label, "column": column, "turn": turn, "speed": speed})
        CONSOLE.print(f"turn {turn + 1} of {repeat}")
    return samples


def _speeds_of(result: Mapping[str, Any], model: str, label: str, column: str) -> list[float]:
    wanted = (model, label, column)
    return [each["speed"] for each in result["samples"] if (each["model"], each["label"], each["column"]) == wanted]


def _cell(result: Mapping[str, Any], model: str, label: str, column: str) -> str:
    found, plain = (_speeds_of(result, each, label, column) for each in (model, PLAIN))
    text = f"{statistics.median(found):.0f}"
    if model == PLAIN or not plain:
        return text
    ratios = [theirs / ours for ours, theirs in zip(found, plain, strict=True)]
    return f"{text} × {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def markdown(result: Mapping[str, Any]) -> str:
    """Medians in tokens/s, and median and range of the time by that of the plain model of the same precision."""
    lines = ["{threads} threads of {processor}, {when}, {repeat} turns; × time of the plain model".format(**result)]
    rows = [
        [f"{model}, {label.removeprefix('edgekiln ')}", *(_cell(result, model, label, column) for column in COLUMNS)]
        for model, label in dict.fromkeys((each["model"], each["label"]) for each in result["samples"])
    ]
    return "\n".join([*lines, "", *table(["tokens/s", *COLUMNS], rows)])


@click.command()
@click.option("--models", type=names, default=",".join(HYBRID_SHAPES), show_default=True)
@click.option("--repeat", type=int, default=5, show_default=True)
@run_options
def main(*, models: list[str], repeat: int, out: Path, reuse: bool, threads: int, only: tuple[str, ...]) -> None:
    """Prepare the engines, measure them in turns, and write OUT/hybrids.json and .md."""
    variants = [
        each
        for each in edgekiln_variants()
        if "KV" not in each.label and (not only or any(part in each.label for part in only))
    ]
    processes: dict[tuple[str, str], EngineProcess] = {}
    vocab = 0
    try:
        for model in models:
            _, paths = prepare(variants, model, out, reuse)
            for variant in variants:
                vocab = read_manifest(paths[variant.label]).architecture.vocab_size
                processes[name_of(model), variant.label] = EngineProcess(variant, paths[variant.label], threads)
                processes[name_of(model), variant.label].suspend()
        samples = measure(processes, vocab, repeat)
    finally:
        for process in processes.values():
            process.end()
    result = {**environment(threads, "edgekiln", "onnxruntime"), "repeat": repeat, "samples": samples}
    (out / f"{NAME}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / f"{NAME}.md").write_text(markdown(result) + "\n", encoding="utf-8")
    click.echo(markdown(result))


if __name__ == "__main__":
    main()
