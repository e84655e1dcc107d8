"""Speed and memory of edgekiln's engines against prompt length, batch and model size, with their bounds.

Each point is a fresh process that loads the engine, warms up and answers one request, so that its peak memory is that
of the request. The whole set of points is measured once a repeat, so that drift of the machine changes no curve's
shape. Decode is bounded by reading the weights and the KV cache at the measured memory bandwidth, memory by the weights
file plus the KV cache.

Run: python -m bench.suites.curves --help
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.common.bounds import key_value_bytes, read_gb_per_s, weights_file_bytes
from bench.common.environment import environment
from bench.common.models import CONSOLE, name_of, prepare
from bench.common.options import names, numbers, run_options
from bench.common.processes import EngineProcess, speeds
from bench.engines.table import Variant, edgekiln_variants
from bench.report import curves as report
from edgekiln.engine.manifest import read_manifest
from edgekiln.engine.reports import read_report

NAME = "curves"


@dataclass(frozen=True)
class Engine:
    """One measured engine.

    Attributes:
        model: name of its model.
        variant: its row of the table of engines.
        path: engine directory.
        sizes: inputs of its bounds, see `sizes`.
    """

    model: str
    variant: Variant
    path: Path
    sizes: dict[str, int]


def sizes(path: Path) -> dict[str, int]:
    """Sizes of an engine in bytes, parameters and tokens."""
    manifest = read_manifest(path)
    return {
        "parameters": manifest.architecture.parameters,
        "vocab_size": manifest.architecture.vocab_size,
        "max_length": manifest.architecture.max_length,
        "weights_file_bytes": weights_file_bytes(path),
        "step_weight_bytes": read_report(path).step_weight_bytes,
        "key_value_bytes": key_value_bytes(manifest),
    }


def measure(engine: Engine, batch: int, length: int, count: int, threads: int, seed: int) -> dict[str, Any]:
    """One point: a fresh process continues `batch` prompts of `length` random tokens by `count` tokens each."""
    generator = np.random.default_rng(seed)
    vocab_size = engine.sizes["vocab_size"]
    process = EngineProcess(engine.variant, engine.path, threads)
    try:
        process.generate(generator.integers(0, vocab_size, (batch, 32)), 8)
        answer = process.generate(generator.integers(0, vocab_size, (batch, length)), count)
        peak = process.peak_rss_mb()
    finally:
        process.end()
    return {
        "model": engine.model,
        "label": engine.variant.label,
        "batch": batch,
        "prompt": length,
        "prefill_s": answer["first_token_s"],
        **speeds(answer, batch, length),
        "peak_rss_mb": peak,
    }


@click.command()
@click.option("--models", type=names, default="smollm2-135m,random-qwen3-0.6b,random-llama-1b", show_default=True)
@run_options
@click.option("--prompts", type=numbers, default="32,128,512,2048,8000", show_default=True)
@click.option("--batches", type=numbers, default="1,2,4,8", show_default=True)
@click.option("--batch-prompt", type=int, default=512, show_default=True, help="Prompt tokens of each sequence.")
@click.option("--gen-tokens", type=int, default=32, show_default=True)
@click.option("--repeat", type=int, default=3, show_default=True)
def main(
    *,
    models: list[str],
    out: Path,
    reuse: bool,
    prompts: list[int],
    batches: list[int],
    batch_prompt: int,
    gen_tokens: int,
    repeat: int,
    threads: int,
    only: tuple[str, ...],
) -> None:
    """Prepare the engines, measure every point, and write OUT/curves.json, .md, .csv and one .png per axis."""
    chosen = [each for each in edgekiln_variants() if not only or any(part in each.label for part in only)]
    measured = []
    for model in models:
        _, paths = prepare(chosen, model, out, reuse)
        measured += [Engine(name_of(model), each, paths[each.label], sizes(paths[each.label])) for each in chosen]
    points = sorted({*((1, length) for length in prompts), *((batch, batch_prompt) for batch in batches)})
    longest = max(length for _, length in points) + gen_tokens
    for engine in measured:
        if longest > engine.sizes["max_length"]:
            raise click.UsageError(
                f"{engine.path} holds {engine.sizes['max_length']} tokens, a prompt and its answer have {longest}: "
                "give shorter --prompts"
            )
    samples, speed = [], []
    for turn in range(repeat):
        # Bandwidth varies with the load of the host: the bound takes the best measurement.
        speed.append(read_gb_per_s(threads))
        for batch, length in points:
            CONSOLE.print(f"repeat {turn + 1} of {repeat}: batch {batch}, prompt {length}")
            samples += [
                {**measure(engine, batch, length, gen_tokens, threads, seed=turn), "repeat": turn}
                for engine in measured
            ]
    result = {
        **environment(threads, "edgekiln", "onnxruntime"),
        "gen_tokens": gen_tokens,
        "repeat": repeat,
        "batch_prompt": batch_prompt,
        "engines": [{"model": engine.model, "label": engine.variant.label, **engine.sizes} for engine in measured],
        "samples": samples,
    }
    result["read_gb_per_s"] = max(result["read_gb_per_s"], *speed)
    (out / f"{NAME}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / f"{NAME}.md").write_text(report.markdown(result), encoding="utf-8")
    report.write_csv(result, out / f"{NAME}.csv")
    plots = report.plot(out / f"{NAME}.csv", out, NAME)
    click.echo(report.markdown(result))
    CONSOLE.print(f"written to {out / NAME}.json, .md, .csv and {', '.join(path.name for path in plots)}")


if __name__ == "__main__":
    main()
