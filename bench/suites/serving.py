"""Throughput and latency under load, on the same requests: edgekiln and llama.cpp as servers, OpenVINO as a library.

OpenVINO GenAI's ContinuousBatchingPipeline runs in one process with its clients, without HTTP, and so do rows of
edgekiln with "library".

Each turn starts each server anew, in rotating order. So many clients as there are streams send requests with prompts of
real text one after another, and every answer has the same number of tokens. The client runs on the same machine.

Run: python -m bench.suites.serving --help
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.common.environment import environment
from bench.common.http_client import Sample, load
from bench.common.json_process import JsonProcess
from bench.common.models import CONSOLE, prepare
from bench.common.options import numbers, run_options
from bench.engines.table import HERE as ENGINES
from bench.engines.table import Variant, edgekiln_variants, openvino_variants
from bench.report.cpu import table
from edgekiln import Engine

TEXT = Path(__file__).parents[1] / "texts" / "tide_mill.txt"
NAME = "serving"
# Modules under bench.engines that batch continuously, without a server.
OPENVINO_BATCHING, EDGEKILN_BATCHING = "openvino_batching", "edgekiln_batching"
OURS = ("int8", "int8, int8 KV", "int4", "int4, int8 KV")
START_S = 120
PORT = 18080
UNITS = {"throughput": "tokens/s", "first_p95_ms": "first token p95, ms", "gap_p95_ms": "between tokens p95, ms"}


@contextlib.contextmanager
def server(
    variant: Variant, path: Path, llama_server: Path | None, threads: int, slots: int, context: int
) -> Iterator[int]:
    """Run a server; gives its process id once it answers."""
    if variant.ours:
        command = [sys.executable, "-m", "edgekiln", "serve", path, "--slots", slots, "--queue", 1000]
        command += ["--max-length", context]
    else:
        assert llama_server is not None
        command = [llama_server, "-m", path, "--parallel", slots, "--ctx-size", slots * context, "--no-webui"]
        command += ["--threads-batch", threads]
    command += ["--threads", threads, "--port", PORT]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while not _answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{variant.label} did not start: {command}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers() -> bool:
    async def ask() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        line = await reader.readline()
        writer.close()
        return b" 200 " in line

    try:
        return asyncio.run(ask())
    except OSError:
        return False


def requests(engine: Engine, count: int, prompt: int, generated: int, seed: int) -> list[dict[str, Any]]:
    """Bodies of requests whose prompts are windows of a text, as token ids: the engines have the same tokenizer."""
    ids = engine.tokenize(TEXT.read_text(encoding="utf-8"))
    generator = np.random.default_rng(seed)
    starts = generator.integers(0, len(ids) - prompt, count)
    options = {"max_tokens": generated, "temperature": 0, "ignore_eos": True}
    return [{"prompt": ids[start : start + prompt], **options} for start in starts.tolist()]


def measure(pid: int, bodies: list[dict[str, Any]], streams: int) -> dict[str, Any]:
    """Load a server; gives its throughput, latencies and memory."""
    asyncio.run(load(PORT, bodies[: min(streams, 4)], min(streams, 4)))  # warm-up
    seconds, samples = asyncio.run(load(PORT, bodies[4:], streams))
    return figures(pid, seconds, samples)


def measure_batching(
    variant: Variant, path: Path, threads: int, bodies: list[dict[str, Any]], streams: int
) -> dict[str, Any]:
    """The same for a library without a server, in a process of its own."""
    # -P: beside the script, openvino.py has the name of the package that it imports.
    process = JsonProcess([variant.python, "-P", ENGINES / f"{variant.module}.py", path, str(threads), str(streams)])
    try:
        generated = bodies[0]["max_tokens"]
        prompts = [body["prompt"] for body in bodies]
        process.ask(prompts=prompts[: min(streams, 4)], generated=generated, streams=min(streams, 4))  # warm-up
        answer = process.ask(prompts=prompts[4:], generated=generated, streams=streams)
        samples = [Sample(**sample, tokens=generated) for sample in answer["samples"]]
        return figures(process.pid, answer["seconds"], samples)
    finally:
        process.end()


def figures(pid: int, seconds: float, samples: list[Sample]) -> dict[str, Any]:
    """What the tables and their sources say of a load that took so many seconds."""
    gaps = [gap for sample in samples for gap in sample.gaps_s]
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return {
        "throughput": sum(sample.tokens for sample in samples) / seconds,
        "first_p50_ms": 1e3 * float(np.percentile([sample.first_s for sample in samples], 50)),
        "first_p95_ms": 1e3 * float(np.percentile([sample.first_s for sample in samples], 95)),
        "gap_p50_ms": 1e3 * float(np.percentile(gaps, 50)),
        "gap_p95_ms": 1e3 * float(np.percentile(gaps, 95)),
        "peak_rss_mb": int(status.partition("VmHWM:")[2].split()[0]) / 1024,
        "load_average": os.getloadavg()[0],
    }


def markdown(result: Mapping[str, Any]) -> str:
    """A table for each number of streams."""
    about = (
        "{threads} threads of {processor}, {when}, {repeat} turns, prompts of {prompt}, answers of {generated} tokens"
    )
    lines = [about.format(**result), ""]
    labels = list(dict.fromkeys(sample["label"] for sample in result["samples"]))
    for streams in result["streams"]:
        of = {
            label: [s for s in result["samples"] if (s["label"], s["streams"]) == (label, streams)] for label in labels
        }
        rows = []
        for label in labels:
            cells = [_cell(of, label, unit) for unit in UNITS]
            rows.append([label, *cells, f"{statistics.median(s['peak_rss_mb'] for s in of[label]):.0f}"])
        lines += table([f"{streams} streams", *UNITS.values(), "peak memory, MB"], rows)
    return "\n".join(lines)


def _cell(of: Mapping[str, list[dict[str, Any]]], label: str, unit: str) -> str:
    """The median, and for edgekiln its ratio to the best other server, turn by turn, with the range."""
    found = [sample[unit] for sample in of[label]]
    text = f"{statistics.median(found):.1f}"
    others = {each: [s[unit] for s in samples] for each, samples in of.items() if not each.startswith("edgekiln")}
    if not others or not label.startswith("edgekiln"):
        return text
    choose = max if unit == "throughput" else min
    best = choose(others.values(), key=statistics.median)
    ratios = [ours / theirs for ours, theirs in zip(found, best, strict=True)]
    return f"{text} × {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


@click.command()
@click.option("--model", default="smollm2-135m", show_default=True)
@click.option("--streams", type=numbers, default="1,8,32", show_default=True)
@click.option("--requests", "count", type=int, default=4, show_default=True, help="Requests of each stream.")
@click.option("--prompt", type=int, default=128, show_default=True, help="Prompt tokens.")
@click.option("--gen-tokens", type=int, default=128, show_default=True)
@click.option("--repeat", type=int, default=3, show_default=True)
@click.option("--llama-server", type=click.Path(path_type=Path, exists=True), help="llama.cpp's llama-server.")
@click.option("--openvino", type=click.Path(path_type=Path, exists=True), help="Python with OpenVINO GenAI.")
@click.option("--gguf", type=click.Path(path_type=Path, exists=True), multiple=True, help="MODEL for it; repeatable.")
@run_options
def main(
    *,
    model: str,
    streams: list[int],
    count: int,
    prompt: int,
    gen_tokens: int,
    repeat: int,
    llama_server: Path | None,
    openvino: Path | None,
    gguf: tuple[Path, ...],
    out: Path,
    reuse: bool,
    threads: int,
    only: tuple[str, ...],
) -> None:
    """Prepare the engines, load the servers in turns, and write OUT/serving.json and .md."""
    variants = edgekiln_variants(OURS)
    if openvino is not None:
        int4 = openvino_variants(openvino)[0]  # int8 is slower
        variants.append(replace(int4, module=OPENVINO_BATCHING))
    variants = [each for each in variants if not only or any(part in each.label for part in only)]
    _, paths = prepare(variants, model, out, reuse)
    for each in [variant for variant in variants if variant.ours and "KV" in variant.label]:
        variants.append(replace(each, label=f"{each.label}, library", module=EDGEKILN_BATCHING))
        paths[variants[-1].label] = paths[each.label]
    if llama_server is not None:
        for path in gguf:
            label = f"llama-server {path.stem}"
            variants.append(Variant(label, llama_server, "", lambda *_: None, ""))
            paths[label] = path
    engine = Engine.open(next(paths[variant.label] for variant in variants if variant.ours))
    context = prompt + gen_tokens + 64
    samples = []
    for turn in range(repeat):
        for level in streams:
            bodies = requests(engine, level * count + 4, prompt, gen_tokens, 1000 * turn + level)
            first = turn % len(variants)
            for variant in variants[first:] + variants[:first]:
                path = paths[variant.label]
                if variant.module in (OPENVINO_BATCHING, EDGEKILN_BATCHING):
                    found = measure_batching(variant, path, threads, bodies, level)
                else:
                    with server(variant, path, llama_server, threads, level, context) as pid:
                        found = measure(pid, bodies, level)
                samples.append({"label": variant.label, "streams": level, "turn": turn, **found})
                CONSOLE.print(f"{level} streams, {variant.label}: {found['throughput']:.0f} tokens/s")
    result = {
        **environment(threads, "edgekiln", "onnxruntime"),
        **{"repeat": repeat, "prompt": prompt, "generated": gen_tokens, "streams": streams, "samples": samples},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{NAME}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / f"{NAME}.md").write_text(markdown(result) + "\n", encoding="utf-8")
    click.echo(markdown(result))


if __name__ == "__main__":
    main()
