"""edgekiln beside onnxruntime-genai: the same checkpoint, prompts, machine and run.

`make bench` runs this in an environment of its own. The candidates take turns at each prompt, so that a machine whose
speed drifts is unfair to none of them; ratios are taken prompt by prompt. Each is loaded for its turn alone and warmed
up, because threads that wait spinning for one would take the cores of another. The peer runs twice: as its builder
leaves it, and told to use as many threads as edgekiln.
"""

import datetime
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import genai_model
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from edgekiln import runtimes
from edgekiln.bundle import read_manifest
from edgekiln.calib.evaluate import perplexity
from edgekiln.measure import Figures, Sample, Workload, measure_request, random_prompts
from edgekiln.runtimes.base import Ids, Logits
from edgekiln.runtimes.native import STOCK, native_kernels

PEER = "genai int4 as built"
WINDOW = 512

Request = Callable[[Ids, int], Sample]
Opener = Callable[[], Request]
Scorer = Callable[[Ids], Logits]


@click.command()
@click.option("--model", default="smollm2-135m", show_default=True, help="Any reference that `edgekiln engine` takes.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("bench/results"), show_default=True)
@click.option("--prompt-tokens", type=int, default=512, show_default=True)
@click.option("--gen-tokens", type=int, default=128, show_default=True)
@click.option("--batch", type=int, default=1, show_default=True)
@click.option("--repeat", type=int, default=7, show_default=True)
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--text", type=click.Path(path_type=Path, exists=True), help="Also measure perplexity on this file.")
@click.option("--windows", type=int, default=20, show_default=True, help=f"Windows of {WINDOW} tokens of the text.")
def main(
    *,
    model: str,
    out: Path,
    prompt_tokens: int,
    gen_tokens: int,
    batch: int,
    repeat: int,
    threads: int,
    seed: int,
    text: Path | None,
    windows: int,
) -> None:
    """Build both, measure both, print a table and write OUT/NAME.json."""
    workload = Workload(prompt_tokens, gen_tokens, batch, repeat)
    name = model.rstrip("/").rpartition("/")[2]
    hf_directory, engines = prepare(model, name, out)
    genai_directory = out / f"{name}-genai-int4"

    def open_engine(path: Path) -> Request:
        runtime = runtimes.open(path, threads=threads)
        return lambda prompts, count: measure_request(runtime, prompts, count)

    openers: dict[str, Opener] = {
        PEER: lambda: genai_model.GenaiModel(genai_directory, None).measure_request,
        f"genai int4, {threads} threads": lambda: genai_model.GenaiModel(genai_directory, threads).measure_request,
    }
    openers |= {f"edgekiln {quant}": partial(open_engine, path) for quant, path in engines.items()}
    vocab_size = min(read_manifest(path).architecture.vocab_size for path in engines.values())
    samples = interleave(openers, workload, vocab_size, seed)
    results: dict[str, dict[str, Any]] = {
        label: {**Figures.of(rows, workload).as_json(), **ratios(rows, samples[PEER])}
        for label, rows in samples.items()
    }
    if text:
        scorers: dict[str, Scorer] = {PEER: genai_model.GenaiScorer(genai_directory, threads)}
        scorers |= {f"edgekiln {quant}": runtimes.open(path, threads=threads).score for quant, path in engines.items()}
        add_perplexity(results, scorers, hf_directory, text, windows)
    record = {
        "model": model,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kernels": kernels.instruction_set if (kernels := native_kernels()) else STOCK,
        "versions": {library: version(library) for library in ("edgekiln", "onnxruntime", "onnxruntime-genai")},
        "threads": threads,
        "seed": seed,
        **vars(workload),
        "results": results,
    }
    path = out / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    show(record, path)


def prepare(model: str, name: str, out: Path) -> tuple[Path, dict[str, Path]]:
    """Build the peer's model where it is missing, and edgekiln's engines anew; returns HF directory and engines."""
    out.mkdir(parents=True, exist_ok=True)
    hf_directory = out / f"{name}-hf"
    if not (hf_directory / "tokenizer_config.json").is_file():
        shutil.rmtree(hf_directory, ignore_errors=True)
        genai_model.write_hf_directory(model, hf_directory)
    genai_directory = out / f"{name}-genai-int4"
    if not genai_directory.is_dir():
        genai_model.build(hf_directory, genai_directory)
    engines = {quant: out / f"{name}-{quant}" for quant in ("int8", "int4")}
    for quant, path in engines.items():
        # In a process of its own: building leaves this one's memory and threads as they are.
        subprocess.run(
            [sys.executable, "-m", "edgekiln", "engine", model, "--quant", quant, "-o", str(path)], check=True
        )
    return hf_directory, engines


def interleave(openers: dict[str, Opener], workload: Workload, vocab_size: int, seed: int) -> dict[str, list[Sample]]:
    """Load, warm up and measure every candidate on each prompt in turn; the order rotates."""
    generator = np.random.default_rng(seed)
    labels = list(openers)
    samples: dict[str, list[Sample]] = {label: [] for label in labels}
    for repeat in range(workload.repeat):
        warm_up, prompts = (random_prompts(workload, vocab_size, generator) for _ in range(2))
        first = repeat % len(labels)
        for label in labels[first:] + labels[:first]:
            request = openers[label]()
            request(warm_up, 8)
            samples[label].append(request(prompts, workload.gen_tokens))
    return samples


def ratios(samples: list[Sample], peer: list[Sample]) -> dict[str, float]:
    """Median over the prompts of how many times as fast as the peer."""
    pairs = list(zip(samples, peer, strict=True))
    return {
        "prefill_ratio": statistics.median(theirs.first_token_s / ours.first_token_s for ours, theirs in pairs),
        "decode_ratio": statistics.median(sum(theirs.step_s) / sum(ours.step_s) for ours, theirs in pairs),
    }


def add_perplexity(
    results: dict[str, dict[str, Any]], scorers: dict[str, Scorer], hf_directory: Path, text: Path, windows: int
) -> None:
    """Add each candidate's perplexity and its ratio to the float32 model's, over the first windows of the text."""
    from tokenizers import Tokenizer

    from edgekiln.calib.reference import reference_scorer
    from edgekiln.sources import resolve

    tokenizer = Tokenizer.from_file(str(hf_directory / "tokenizer.json"))
    tokens = np.array(tokenizer.encode(text.read_text(encoding="utf-8")).ids[: windows * WINDOW], np.int64)
    reference = perplexity(reference_scorer(resolve(str(hf_directory))), tokens, window=WINDOW).perplexity
    results["float32"] = {"perplexity": reference, "perplexity_ratio": 1.0}
    for label, score in scorers.items():
        value = perplexity(score, tokens, window=WINDOW).perplexity
        results[label] |= {"perplexity": value, "perplexity_ratio": value / reference}


def show(record: dict[str, Any], path: Path) -> None:
    """Print the record as a table: medians, smallest and largest, × the peer."""
    columns = ["", "prefill tokens/s", "×", "decode tokens/s", "×", "perplexity", "× fp32"]
    title = "{model}: prompt {prompt_tokens}, generate {gen_tokens}, batch {batch}, {threads} threads".format(**record)
    table = Table(*columns, title=title, box=SIMPLE)
    for label, result in record["results"].items():

        def spread(name: str, result: dict[str, Any] = result) -> str:
            if name not in result:
                return "–"
            low, high = result[f"{name}_range"]
            return f"{result[name]:.0f} ({low:.0f}–{high:.0f})"

        def number(name: str, result: dict[str, Any] = result) -> str:
            return f"{result[name]:.2f}" if name in result else "–"

        table.add_row(
            label,
            spread("prefill_tokens_per_s"),
            number("prefill_ratio"),
            spread("decode_tokens_per_s"),
            number("decode_ratio"),
            number("perplexity"),
            number("perplexity_ratio"),
        )
    console = Console()
    console.print(table)
    console.print(f"written to {path}", highlight=False)


if __name__ == "__main__":
    main()
