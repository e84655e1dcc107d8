"""What edgekiln's own engines cost: time and memory against prompt length, batch and model size, beside their bounds.

Each point is a fresh process, which loads the engine, is warmed up and answers one request, so that its peak memory is
that request's. All points are measured, then all of them again, so that a machine whose speed drifts changes no curve's
shape. A decode step is bounded by reading the weights, and the keys and values of the context, at memory's measured
speed; memory by the weights file and those keys and values.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import curve_tables
import numpy as np
from bounds import key_value_bytes, read_gb_per_s, step_weight_bytes, weights_file_bytes
from candidates import Candidate, engines
from making import CONSOLE, make_models, name_of
from options import names, numbers, run_options
from processes import Process, speeds
from records import surroundings

from edgekiln.engine.manifest import read_manifest

NAME = "curves"


@dataclass(frozen=True)
class Engine:
    """One engine that is measured.

    Attributes:
        model: name of its model.
        candidate: how it runs.
        path: its directory.
        facts: what its bounds are computed from.
    """

    model: str
    candidate: Candidate
    path: Path
    facts: dict[str, int]


def facts(path: Path) -> dict[str, int]:
    """Sizes of an engine, in bytes, parameters and tokens."""
    manifest = read_manifest(path)
    return {
        "parameters": manifest.architecture.parameters,
        "vocab_size": manifest.architecture.vocab_size,
        "max_length": manifest.architecture.max_length,
        "weights_file_bytes": weights_file_bytes(path),
        "step_weight_bytes": step_weight_bytes(path),
        "key_value_bytes": key_value_bytes(manifest),
    }


def measure(engine: Engine, batch: int, length: int, count: int, threads: int, seed: int) -> dict[str, Any]:
    """One point: a fresh process answers `batch` prompts of `length` random tokens with `count` tokens each."""
    generator = np.random.default_rng(seed)
    vocab_size = engine.facts["vocab_size"]
    process = Process(engine.candidate, engine.path, threads)
    try:
        process.generate(generator.integers(0, vocab_size, (batch, 32)), 8)
        answer = process.generate(generator.integers(0, vocab_size, (batch, length)), count)
        peak = process.peak_rss_mb()
    finally:
        process.end()
    return {
        "model": engine.model,
        "label": engine.candidate.label,
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
@click.option("--batch-prompt", type=int, default=512, show_default=True, help="Prompt tokens of each row of a batch.")
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
    """Make the engines, measure every point, and write OUT/curves.json, .md and one .svg for each axis."""
    everyone = [each for each in engines() if not only or any(part in each.label for part in only)]
    measured = []
    for model in models:
        _, paths = make_models(everyone, model, out, reuse)
        measured += [Engine(name_of(model), each, paths[each.label], facts(paths[each.label])) for each in everyone]
    points = sorted({*((1, length) for length in prompts), *((batch, batch_prompt) for batch in batches)})
    longest = max(length for _, length in points) + gen_tokens
    for engine in measured:
        if longest > engine.facts["max_length"]:
            raise click.UsageError(
                f"{engine.path} holds {engine.facts['max_length']} tokens, a prompt and its answer have {longest}: "
                "give shorter --prompts"
            )
    samples, speed = [], []
    for turn in range(repeat):
        # Memory's speed changes as other machines on the same host come and go: what bounds is the best of it.
        speed.append(read_gb_per_s(threads))
        for batch, length in points:
            CONSOLE.print(f"repeat {turn + 1} of {repeat}: batch {batch}, prompt {length}")
            samples += [
                {**measure(engine, batch, length, gen_tokens, threads, seed=turn), "repeat": turn}
                for engine in measured
            ]
    record = {
        **surroundings(threads, "edgekiln", "onnxruntime"),
        "gen_tokens": gen_tokens,
        "repeat": repeat,
        "batch_prompt": batch_prompt,
        "engines": [{"model": engine.model, "label": engine.candidate.label, **engine.facts} for engine in measured],
        "samples": samples,
    }
    record["read_gb_per_s"] = max(record["read_gb_per_s"], *speed)
    (out / f"{NAME}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (out / f"{NAME}.md").write_text(curve_tables.markdown(record), encoding="utf-8")
    plots = curve_tables.plot(record, out, NAME)
    click.echo(curve_tables.markdown(record))
    CONSOLE.print(f"written to {out / NAME}.json, .md and {', '.join(path.name for path in plots)}")


if __name__ == "__main__":
    main()
