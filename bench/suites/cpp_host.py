"""libedgekiln and the Python runtime on one engine: the same requests in turn, each side in its own process.

Speeds are medians over the repeats, memory is the resident size after them. A cold start runs from process start to the
first token of a 32-token prompt, with the SHA-256 of every file checked. A second table has the peak memory of a
process that answers one prompt, and its ratio to the weights file plus the KV cache.

Run: python -m bench.suites.cpp_host --help
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil

from bench.common.bounds import key_value_bytes, weights_file_bytes
from bench.common.json_process import JsonProcess
from bench.common.options import numbers
from bench.common.processes import cpp_command
from bench.report.cpu import table
from edgekiln.engine.manifest import read_manifest


class Side(JsonProcess):
    """One of the two sides."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(command)
        assert self.hello["status"] == 0, self.hello

    def answer(self, ids: np.ndarray, max_tokens: int) -> dict[str, Any]:
        """Answer a prompt greedily in an empty session."""
        reply = self.ask(ids=ids.tolist(), max_tokens=max_tokens, ignore_eos=True, reset=True, speculate=False)
        assert reply["status"] == 0, reply
        return reply

    def since_start(self) -> float:
        """Milliseconds since the process was started."""
        return (time.perf_counter() - self.started) * 1e3

    def resident_mb(self) -> float:
        """Resident memory in MB (10^6 bytes)."""
        return psutil.Process(self.pid).memory_info().rss / 1e6


def worker(engine: str, threads: int) -> None:
    """The Python side: serves the requests of cpp/tests/lib/answer.cpp."""
    from edgekiln import runtimes
    from edgekiln.engine.manifest import read_manifest
    from edgekiln.runtimes.generate.generate import generate
    from edgekiln.runtimes.generate.options import GenerateOptions
    from edgekiln.runtimes.text.tokenizer import Tokenizer

    runtime = runtimes.open(engine, threads=threads)
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
    print(json.dumps({"status": 0, "vocab_size": runtime.properties.vocab_size}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        options = GenerateOptions(max_tokens=request["max_tokens"], ignore_eos=True, speculate=False)
        start = time.perf_counter()
        times, ids = [], []
        for token in generate(runtime, tokenizer, [np.array(request["ids"])], options):
            times.append(time.perf_counter() - start)
            ids.append(token.id)
        reply = {"status": 0, "ids": ids, "first_token_s": times[0], "total_s": times[-1]}
        print(json.dumps(reply), flush=True)


@click.command()
@click.argument("engine", type=click.Path(exists=True))
@click.option("--prompt-tokens", default=512, show_default=True)
@click.option("--gen-tokens", default=128, show_default=True)
@click.option("--repeat", default=7, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--memory-prompts", type=numbers, default="32,512,2048,4096", show_default=True)
@click.option("--worker", "as_worker", is_flag=True, hidden=True)
def main(
    *,
    engine: str,
    prompt_tokens: int,
    gen_tokens: int,
    repeat: int,
    threads: int,
    memory_prompts: list[int],
    as_worker: bool,
) -> None:
    """Measure ENGINE in C++ and in Python."""
    if as_worker:
        worker(engine, threads)
        return
    commands = {
        "C++": cpp_command(Path(engine), threads),
        "Python": [sys.executable, "-m", "bench.suites.cpp_host", engine, "--threads", str(threads), "--worker"],
    }
    generator = np.random.default_rng(0)
    cold: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, command in commands.items():
            process = Side(command)
            process.answer(generator.integers(0, process.hello["vocab_size"], 32), 1)
            cold[name].append(process.since_start())
            process.end()
    processes = {name: Side(command) for name, command in commands.items()}
    prefill: dict[str, list[float]] = {name: [] for name in commands}
    decode: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(repeat + 1):
        prompt = generator.integers(0, processes["C++"].hello["vocab_size"], prompt_tokens)
        replies = {name: process.answer(prompt, gen_tokens) for name, process in processes.items()}
        assert replies["C++"]["ids"] == replies["Python"]["ids"]
        if turn:  # the first is a warm-up
            for name, reply in replies.items():
                prefill[name].append(prompt_tokens / reply["first_token_s"])
                decode[name].append((gen_tokens - 1) / (reply["total_s"] - reply["first_token_s"]))
    print(f"{'':8}{'prefill, tokens/s':>19}{'decode, tokens/s':>18}{'resident, MB':>14}{'cold start, ms':>16}")
    for name, process in processes.items():
        medians = [statistics.median(values[name]) for values in (prefill, decode, cold)]
        print(f"{name:8}{medians[0]:19.0f}{medians[1]:18.1f}{process.resident_mb():14.0f}{medians[2]:16.0f}")
        process.end()
    print("\n".join(memory_table(commands, Path(engine), memory_prompts, gen_tokens)))


def memory_table(commands: dict[str, list[str]], engine: Path, prompts: list[int], count: int) -> list[str]:
    """Markdown lines: peak MB of each side for prompts of these lengths, each continued by `count` tokens."""
    generator = np.random.default_rng(0)
    token, weights = key_value_bytes(read_manifest(engine, verify=False)), weights_file_bytes(engine)
    rows = []
    for length in prompts:
        least = (weights + token * (length + count)) / 1e6
        row = [str(length), f"{least:.0f}"]
        for command in commands.values():
            process = Side(command)
            process.answer(generator.integers(0, process.hello["vocab_size"], length), count)
            row.append(f"{process.peak_rss_mb():.0f} × {process.peak_rss_mb() / least:.2f}")
            process.end()
        rows.append(row)
    return table(["prompt", "weights file and cache, MB", *(f"{name}, MB" for name in commands)], rows)


if __name__ == "__main__":
    main()
