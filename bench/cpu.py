"""edgekiln beside its peers on this machine's processor: the same checkpoint, prompt ids, threads and run.

Everyone is loaded and warmed up, then they take turns at each prompt, in an order that rotates, so that a machine whose
speed drifts is unfair to none; ratios are taken prompt by prompt. Every prompt is new, so that no prefix cache answers.
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import tables
from candidates import Candidate, candidates
from making import CONSOLE, make_models, name_of
from options import numbers, peer_options, run_options
from processes import Ids, Process, first_token_from_nothing, host_from_nothing, perplexity, speeds
from records import surroundings

WINDOW = 512


def size_mb(path: Path) -> float:
    """Of a file, or of all files of a directory, in MB (10^6 bytes)."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def interleave(
    processes: dict[str, Process], workloads: list[tuple[int, int]], count: int, repeat: int, vocab_size: int
) -> list[dict[str, Any]]:
    """Measure every process on each new prompt in turn.

    Returns:
        One sample a process, workload (batch, prompt tokens) and repeat.
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
                process.go_on()
                process.generate(warm_up, 8)
                answer = process.generate(prompts, count)
                process.stop()
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
@click.option("--model", default="smollm2-135m", show_default=True, help="What `edgekiln engine` takes, or a shape.")
@run_options
@click.option("--prompts", type=numbers, default="32,128,512,1024,2048,4096", show_default=True)
@click.option("--batch-prompt", type=int, default=512, show_default=True, help="Prompt tokens of each of 8 rows.")
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
    """Make every candidate's model, measure all of them, and write OUT/NAME.json, NAME.md and NAME.svg."""
    everyone = [
        each
        for each in candidates(openvino.absolute(), llama.absolute())
        if not only or any(part in each.label for part in only)
    ]
    name = name_of(model)
    checkpoint, paths = make_models(everyone, model, out, reuse)
    vocab_size = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    results: dict[str, dict[str, Any]] = {label: {"size_mb": size_mb(path)} for label, path in paths.items()}
    started: dict[str, dict[str, list[float]]] = {}
    generator = np.random.default_rng(1)
    for turn in range(repeat):
        for each in everyone:
            prompt = generator.integers(0, vocab_size, (1, 32))
            figures = {each.label: first_token_from_nothing(each, paths[each.label], threads, prompt)}
            if each.ours:
                figures[f"{each.label}, in C++"] = host_from_nothing(paths[each.label], threads, prompt)
            for label, values in figures.items():
                for key, value in values.items():
                    started.setdefault(label, {}).setdefault(key, []).append(value)
        CONSOLE.print(f"started everyone, {turn + 1} of {repeat}")
    if text:
        add_perplexity(results, everyone, paths, threads, checkpoint, text, windows)
    processes = {}
    for each in everyone:
        processes[each.label] = Process(each, paths[each.label], threads)
        processes[each.label].stop()
    workloads = [(1, length) for length in prompts] + [(8, batch_prompt)]
    try:
        samples = interleave(processes, workloads, gen_tokens, repeat, vocab_size)
    finally:
        for process in processes.values():
            process.end()
    record = {
        "model": model,
        **surroundings(threads, "edgekiln", "onnxruntime", "onnxruntime-genai"),
        "gen_tokens": gen_tokens,
        "repeat": repeat,
        "ours": [each.label for each in everyone if each.ours],
        "results": results,
        "started": started,
        "samples": samples,
    }
    (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(tables.markdown(record), encoding="utf-8")
    tables.plot(record, out / f"{name}.svg")
    click.echo(tables.markdown(record))
    CONSOLE.print(f"written to {out / name}.json, .md and .svg")


def add_perplexity(
    results: dict[str, dict[str, Any]],
    everyone: list[Candidate],
    paths: dict[str, Path],
    threads: int,
    checkpoint: Path,
    text: Path,
    windows: int,
) -> None:
    """Add each candidate's perplexity over the first windows of the text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokens: Ids = np.array(tokenizer.encode(text.read_text(encoding="utf-8")).ids[: windows * WINDOW], np.int64)
    for each in everyone:
        results[each.label]["perplexity"] = perplexity(each, paths[each.label], threads, tokens, WINDOW)
        CONSOLE.print(f"{each.label}: perplexity {results[each.label]['perplexity']:.3f}")


if __name__ == "__main__":
    main()
