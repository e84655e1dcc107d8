"""edgekiln against llama.cpp and ONNX Runtime, all limited to one instruction set, with one thread and with several.

"onnxruntime" rows run edgekiln's engines with ONNX Runtime's own kernels, so both compute the same graph. llama.cpp is
as its environment was compiled: `make bench-isa` compiles it for AVX2. Ratios are to the best peer of the same number
of bits, prompt by prompt, in rotating order; see bench.suites.cpu. How engines are limited: bench.common.limit_isa.

Run: python -m bench.suites.isa --help
"""

import dataclasses
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bench.common.environment import environment
from bench.common.limit_isa import INSTRUCTION_SETS, limited
from bench.common.models import CONSOLE, name_of, prepare
from bench.common.options import numbers
from bench.common.processes import EngineProcess
from bench.engines.table import Variant, edgekiln_variants, llama_variants
from bench.report.cpu import table
from bench.suites.cpu import interleave

PEERS_OF = {"int4": ("int4", "Q4_0"), "int8": ("int8", "Q8_0")}  # bits of a label -> the words of its peers' labels
UNITS = {"prefill_tokens_per_s": "prefill {}", "decode_tokens_per_s": "decode after {}"}


def measured_variants(isa: str, llama: Path | None, folder: Path) -> list[Variant]:
    """edgekiln's variants with its kernels and with ONNX Runtime's, and llama.cpp if there is an environment of it."""
    limits = limited(isa, folder)
    found = []
    for variant in edgekiln_variants():
        found.append(dataclasses.replace(variant, environment=limits))
        label = variant.label.replace("edgekiln", "onnxruntime")
        own = limits | {"EDGEKILN_ISA": "onnxruntime"}
        found.append(dataclasses.replace(variant, label=label, environment=own, ours=False))
    if llama:
        found += [variant for variant in llama_variants(llama) if variant.label.endswith(("Q4_0", "Q8_0"))]
    return found


def bits_of(label: str) -> str:
    """int4 or int8, of the weights."""
    return next(bits for bits, words in PEERS_OF.items() if label.split(",", maxsplit=1)[0].endswith(words))


def markdown(result: Mapping[str, Any]) -> str:
    """Medians and, for edgekiln, median and range of the ratios to the best peer of the same bits."""
    lines = ["limited to {isa}: {model} on {processor}, {when}, {repeat} repeats, {gen_tokens} tokens".format(**result)]
    threads = list(dict.fromkeys(sample["threads"] for sample in result["samples"]))
    columns = [(unit, name, count) for count in threads for unit, name in UNITS.items()]
    heads = ["", *(f"{name.format(result['prompt'])}, threads: {count}" for _, name, count in columns)]
    labels = list(dict.fromkeys(sample["label"] for sample in result["samples"]))
    rows = [[label, *(_cell(result, label, unit, count) for unit, _, count in columns)] for label in labels]
    return "\n".join([*lines, "", *table(heads, rows)])


def _values(result: Mapping[str, Any], label: str, unit: str, threads: int) -> list[float]:
    samples = result["samples"]
    return [sample[unit] for sample in samples if (sample["label"], sample["threads"]) == (label, threads)]


def _cell(result: Mapping[str, Any], label: str, unit: str, threads: int) -> str:
    values = _values(result, label, unit, threads)
    text = f"{statistics.median(values):.0f}"
    if label not in result["ours"]:
        return text
    others = {sample["label"] for sample in result["samples"]} - set(result["ours"])
    peers = [_values(result, other, unit, threads) for other in others if bits_of(other) == bits_of(label)]
    if not peers:
        return text
    best = max(peers, key=statistics.median)
    ratios = [ours / theirs for ours, theirs in zip(values, best, strict=True)]
    return f"{text} × {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


@click.command()
@click.option("--isa", type=click.Choice(INSTRUCTION_SETS), default="avx2", show_default=True)
@click.option("--model", default="smollm2-135m", show_default=True, help="Model argument, or a random-* shape.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("bench/results"), show_default=True)
@click.option("--reuse", is_flag=True, help="Reuse the edgekiln engines in OUT instead of rebuilding them.")
@click.option("--threads", type=numbers, default="1,2", show_default=True)
@click.option("--only", multiple=True, help="Measure only labels that contain this text; repeatable.")
@click.option("--prompt", type=int, default=512, show_default=True)
@click.option("--gen-tokens", type=int, default=64, show_default=True)
@click.option("--repeat", type=int, default=4, show_default=True)
@click.option("--llama", type=click.Path(path_type=Path, exists=True), help="Interpreter with llama.cpp for ISA.")
def main(
    *,
    isa: str,
    model: str,
    out: Path,
    reuse: bool,
    threads: list[int],
    only: tuple[str, ...],
    prompt: int,
    gen_tokens: int,
    repeat: int,
    llama: Path | None,
) -> None:
    """Prepare the models, measure them, and write OUT/NAME-ISA.json and .md."""
    measured = [
        variant
        for variant in measured_variants(isa, llama.absolute() if llama else None, out / "onnxruntime-limited")
        if not only or any(part in variant.label for part in only)
    ]
    checkpoint, paths = prepare(measured, model, out, reuse)
    vocab_size = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    samples = []
    for count in threads:
        CONSOLE.print(f"threads: {count}")
        processes = {}
        for variant in measured:
            processes[variant.label] = EngineProcess(variant, paths[variant.label], count)
            processes[variant.label].suspend()
        try:
            found = interleave(processes, [(1, prompt)], gen_tokens, repeat, vocab_size)
        finally:
            for process in processes.values():
                process.end()
        samples += [{**sample, "threads": count} for sample in found]
    result = {
        "isa": isa,
        "model": model,
        **environment(max(threads), "edgekiln", "onnxruntime"),
        "prompt": prompt,
        "gen_tokens": gen_tokens,
        "repeat": repeat,
        "ours": [variant.label for variant in measured if variant.ours],
        "samples": samples,
    }
    to = out / f"{name_of(model)}-{isa}"
    to.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    to.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    click.echo(markdown(result))


if __name__ == "__main__":
    main()
