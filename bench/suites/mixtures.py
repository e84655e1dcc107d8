"""Speed of mixtures of experts with random weights, of edgekiln, llama.cpp and OpenVINO.

The models have gigabytes of weights, and not all engines fit in memory together: each turn starts each engine anew, in
rotating order, and ends it before the next. It is measured after a warm-up, whose tokens choose most
experts. Beside tokens/s a sample has the processor time of the process, which other programs disturb less.

Run: python -m bench.suites.mixtures --help
"""

import json
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.common.environment import environment
from bench.common.memory import anonymous_bytes
from bench.common.mixture_shapes import MIXTURE_SHAPES
from bench.common.models import CONSOLE, name_of, prepare
from bench.common.options import names, peer_options, run_options
from bench.common.processes import EngineProcess
from bench.engines.table import Variant, edgekiln_variants, llama_variants, openvino_variants
from bench.report.cpu import table
from bench.suites.cpu import size_mb
from edgekiln.engine.reports import step_weight_bytes

NAME = "mixtures"
KINDS = ("Q4_0", "Q4_K_M")
OURS = ("edgekiln int8", "edgekiln int4")
UNITS = ("prefill", "decode")
OPENVINO_MEMORY = 5.4  # peak of optimum-intel by the size of the checkpoint, measured on a layer of Qwen3-30B-A3B
PAGE = os.sysconf("SC_PAGE_SIZE")
WARM_UP = 64  # tokens
CONTEXT = 1  # token of the prompt after which decode is measured: it takes as long as a decode step


def processor_s(pid: int) -> float:
    """User and system time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sample(
    variant: Variant, path: Path, threads: int, vocab: int, prompt: int, generated: int, seed: int
) -> dict[str, Any]:
    """Start an engine, measure it, and end it: speeds in tokens/s and processor times in ms a token."""
    generator = np.random.default_rng(seed)
    process = EngineProcess(variant, path, threads)
    try:
        process.generate(generator.integers(0, vocab, (1, WARM_UP)), 8)
        before = processor_s(process.pid)
        first_token_s = process.generate(generator.integers(0, vocab, (1, prompt)), 1)["first_token_s"]
        between = processor_s(process.pid)
        steps = process.generate(generator.integers(0, vocab, (1, CONTEXT)), generated + 1)
        after = processor_s(process.pid)
        return {
            "load_s": process.load_s,
            "prefill": prompt / first_token_s,
            "prefill_cpu_ms": (between - before) / prompt * 1e3,
            "decode": generated / sum(steps["step_s"]),
            "decode_cpu_ms": (after - between) / (generated + 1) * 1e3,
            "anonymous_mb": anonymous_bytes(process.pid) / 1e6,
            "peak_rss_mb": process.peak_rss_mb(),
            "load_average": os.getloadavg()[0],
        }
    finally:
        process.end()


def _of(result: Mapping[str, Any], model: str, label: str, unit: str) -> list[float]:
    return [each[unit] for each in result["samples"] if (each["model"], each["label"]) == (model, label)]


def _cell(result: Mapping[str, Any], model: str, label: str, unit: str) -> str:
    """Median in tokens/s, and the ratio to the best other library, turn by turn, with its range."""
    found = _of(result, model, label, unit)
    text = f"{statistics.median(found):.1f}"
    labels = dict.fromkeys(each["label"] for each in result["samples"] if each["model"] == model)
    others = [_of(result, model, other, unit) for other in labels if not other.startswith("edgekiln")]
    if not others or not label.startswith("edgekiln"):
        return text
    best = max(others, key=statistics.median)
    ratios = [ours / theirs for ours, theirs in zip(found, best, strict=True)]
    return f"{text} × {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def markdown(result: Mapping[str, Any]) -> str:
    """One table a model, then what could not be measured."""
    about = "{threads} threads of {processor}, {when}, {repeat} turns, prompt {prompt}, {generated} tokens generated"
    lines = [about.format(**result), ""]
    heads = ["prefill, tokens/s", "decode, tokens/s", "CPU, ms/token", "decode, CPU ms/token", "anonymous, MB"]
    columns = ("prefill_cpu_ms", "decode_cpu_ms")
    for model, engines in result["engines"].items():
        rows = []
        for label, facts in engines.items():
            numbers = [f"{statistics.median(_of(result, model, label, unit)):.1f}" for unit in columns]
            memory = f"{statistics.median(_of(result, model, label, 'anonymous_mb')):.0f}"
            read = f"{facts['step_weight_bytes'] / 1e6:.0f}" if "step_weight_bytes" in facts else ""
            speeds = [_cell(result, model, label, unit) for unit in UNITS]
            rows.append([label, *speeds, *numbers, memory, f"{facts['size_mb']:.0f}", read])
        lines += table([model, *heads, "files, MB", "read per token, MB"], rows)
    return "\n".join([*lines, *(f"{model}, {label}: {why}" for model, label, why in result["failed"])])


def _prepared(variants: list[Variant], model: str, out: Path, reuse: bool) -> tuple[dict[str, Path], dict[str, str]]:
    """Path of each engine that could be made, and why the others could not."""
    paths: dict[str, Path] = {}
    failed: dict[str, str] = {}
    checkpoint = prepare([], model, out)[0]
    for variant in variants:
        if variant.module == "openvino" and not (out / f"{name_of(model)}{variant.suffix}").exists():
            needed, there = OPENVINO_MEMORY * size_mb(checkpoint) / 1e3, os.sysconf("SC_PHYS_PAGES") * PAGE / 1e9
            if needed > there:
                failed[variant.label] = (
                    f"its conversion takes about {needed:.0f} GB of memory, and there are {there:.0f}"
                )
                continue
        try:
            paths |= prepare([variant], model, out, reuse)[1]
        except SystemExit as error:
            failed[variant.label] = str(error)
    # Larger than all engines together.
    (out / f"{name_of(model)}-llama-f16.gguf").unlink(missing_ok=True)
    return paths, failed


@click.command()
@click.option("--models", type=names, default=",".join(MIXTURE_SHAPES), show_default=True)
@click.option("--prompt", type=int, default=512, show_default=True, help="Prompt tokens.")
@click.option("--gen-tokens", type=int, default=128, show_default=True)
@click.option("--repeat", type=int, default=3, show_default=True)
@run_options
@peer_options
def main(
    *,
    models: list[str],
    prompt: int,
    gen_tokens: int,
    repeat: int,
    out: Path,
    reuse: bool,
    threads: int,
    only: tuple[str, ...],
    openvino: Path,
    llama: Path,
) -> None:
    """Prepare the engines, measure them in turns, and write OUT/mixtures.json and .md."""
    ours = [variant for variant in edgekiln_variants() if variant.label in OURS]
    every = ours + llama_variants(llama.absolute(), KINDS) + openvino_variants(openvino.absolute())
    variants = [each for each in every if not only or any(part in each.label for part in only)]
    samples: list[dict[str, Any]] = []
    engines: dict[str, Any] = {}
    failed = []
    for model in models:
        paths, reasons = _prepared(variants, model, out, reuse)
        failed += [(model, label, why) for label, why in reasons.items()]
        measured = [variant for variant in variants if variant.label in paths]
        engines[model] = {label: {"size_mb": size_mb(path)} for label, path in paths.items()}
        for variant in ours:
            if variant in measured:
                engines[model][variant.label]["step_weight_bytes"] = step_weight_bytes(paths[variant.label])
        vocab = MIXTURE_SHAPES[model]["vocab_size"]
        for turn in range(repeat):
            first = turn % len(measured)
            for variant in measured[first:] + measured[:first]:
                found = sample(variant, paths[variant.label], threads, vocab, prompt, gen_tokens, turn)
                samples.append({"model": model, "label": variant.label, "turn": turn, **found})
                CONSOLE.print(f"{model}, {variant.label}: {found['prefill']:.1f} and {found['decode']:.1f} tokens/s")
    result = {
        **environment(threads, "edgekiln", "onnxruntime"),
        **{"repeat": repeat, "prompt": prompt, "generated": gen_tokens},
        **{"engines": engines, "failed": failed, "samples": samples},
    }
    (out / f"{NAME}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / f"{NAME}.md").write_text(markdown(result) + "\n", encoding="utf-8")
    click.echo(markdown(result))


if __name__ == "__main__":
    main()
