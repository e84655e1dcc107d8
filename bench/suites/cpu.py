"""edgekiln and its peers on this machine's CPU: the same checkpoint, prompt ids, threads and run.

All engines are loaded and warmed up, then measured in turn on each prompt, in rotating order: throughput of the machine
drifts, and ratios are taken prompt by prompt. Prompts are never reused, so that no prefix cache helps.

Run: python -m bench.suites.cpu --help
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.common.environment import environment
from bench.common.models import CONSOLE, name_of, prepare
from bench.common.options import numbers, peer_options, run_options
from bench.common.processes import EngineProcess, Ids, cold_start, cpp_cold_start, perplexity, speeds
from bench.engines.table import Variant, variants
from bench.report import cpu as report

WINDOW = 512


def size_mb(path: Path) -> float:
    """Size of a file, or of all files under a directory, in MB (10^6 bytes)."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def interleave(
    processes: dict[str, EngineProcess], workloads: list[tuple[int, int]], count: int, repeat: int, vocab_size: int
) -> list[dict[str, Any]]:
    """Measure every process on each new prompt, in rotating order.

    Returns:
        One sample per process, workload (batch, prompt tokens) and repeat.
    """
    generator = np.random.default_rng(0)
    labels, samples = list(processes), []
    for turn in range(repeat):
        for batch, length in workloads:
            CONSOLE.print(f"repeat {turn + 1} of {repeat}: batch {batch}, prompt {length}")
            warm_up = generator.integers(0, vocab_size, (batch, 32))
            prompts = generator.integers(0, vocab_size, (batch, length))
            first = turn % len(labels)
            for label in labels[first:] + labels[:first]:
                process = processes[label]
                process.resume()
                process.generate(warm_up, 8)
                answer = process.generate(prompts, count)
                process.suspend()
                samples.append(
                    {
                        "label": label,
                        "batch": batch,
                        "prompt": length,
                        "repeat": turn,
                        **speeds(answer, batch, length),
                        "energy_j": answer["energy_j"],
                    }
                )
    return samples


@click.command()
@click.option(
    "--model",
    default="smollm2-135m",
    show_default=True,
    help="Model argument, or a random-* shape.",
)
@run_options
@click.option("--prompts", type=numbers, default="32,128,512,1024,2048,4096", show_default=True)
@click.option("--batch-prompt", type=int, default=512, show_default=True, help="Prompt tokens of each of 8 sequences.")
@click.option("--gen-tokens", type=int, default=128, show_default=True)
@click.option("--repeat", type=int, default=5, show_default=True)
@click.option("--text", type=click.Path(path_type=Path, exists=True), help="Also measure perplexity on this file.")
@click.option("--windows", type=int, default=20, show_default=True, help=f"Windows of {WINDOW} tokens of the text.")
@peer_options
def main(
    *,
    model: str,
    out: Path,
    prompts: list[int],
    batch_prompt: int,
    gen_tokens: int,
    repeat: int,
    threads: int,
    only: tuple[str, ...],
    text: Path | None,
    windows: int,
    reuse: bool,
    openvino: Path,
    llama: Path,
) -> None:
    """Prepare all models, measure them, and write OUT/NAME.json, .md, .csv and .png."""
    measured = [
        variant
        for variant in variants(openvino.absolute(), llama.absolute())
        if not only or any(part in variant.label for part in only)
    ]
    name = name_of(model)
    checkpoint, paths = prepare(measured, model, out, reuse)
    vocab_size = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    results: dict[str, dict[str, Any]] = {label: {"size_mb": size_mb(path)} for label, path in paths.items()}
    started: dict[str, dict[str, list[float]]] = {}
    generator = np.random.default_rng(1)
    for turn in range(repeat):
        for variant in measured:
            prompt = generator.integers(0, vocab_size, (1, 32))
            starts = {variant.label: cold_start(variant, paths[variant.label], threads, prompt)}
            if variant.ours:
                starts[f"{variant.label}, in C++"] = cpp_cold_start(paths[variant.label], threads, prompt)
            for label, values in starts.items():
                for key, value in values.items():
                    started.setdefault(label, {}).setdefault(key, []).append(value)
        CONSOLE.print(f"cold starts, {turn + 1} of {repeat}")
    if text:
        add_perplexity(results, measured, paths, threads, checkpoint, text, windows)
    processes = {}
    for variant in measured:
        processes[variant.label] = EngineProcess(variant, paths[variant.label], threads)
        processes[variant.label].suspend()
    workloads = [(1, length) for length in prompts] + [(8, batch_prompt)]
    try:
        samples = interleave(processes, workloads, gen_tokens, repeat, vocab_size)
    finally:
        for process in processes.values():
            process.end()
    result = {
        "model": model,
        **environment(threads, "edgekiln", "onnxruntime", "onnxruntime-genai"),
        "gen_tokens": gen_tokens,
        "repeat": repeat,
        "ours": [variant.label for variant in measured if variant.ours],
        "results": results,
        "started": started,
        "samples": samples,
    }
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(report.markdown(result), encoding="utf-8")
    report.write_csv(result, out / f"{name}.csv")
    report.plot(out / f"{name}.csv", out / f"{name}.png")
    click.echo(report.markdown(result))
    CONSOLE.print(f"written to {out / name}.json, .md, .csv and .png")


def add_perplexity(
    results: dict[str, dict[str, Any]],
    measured: list[Variant],
    paths: dict[str, Path],
    threads: int,
    checkpoint: Path,
    text: Path,
    windows: int,
) -> None:
    """Add the perplexity of each variant over the first `windows` windows of the text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokens: Ids = np.array(tokenizer.encode(text.read_text(encoding="utf-8")).ids[: windows * WINDOW], np.int64)
    for variant in measured:
        score = perplexity(variant, paths[variant.label], threads, tokens, WINDOW)
        results[variant.label]["perplexity"] = score
        CONSOLE.print(f"{variant.label}: perplexity {score:.3f}")


if __name__ == "__main__":
    main()
