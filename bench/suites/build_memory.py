"""Anonymous memory of a build and of a run of a model that is larger than memory.

Anonymous memory is what the system cannot take back: pages of mapped files, which weights are read from, do not count.
It is sampled, so that a peak of less than the interval may be missed.

Run: python -m bench.suites.build_memory --help
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from bench.common import checkpoints
from bench.common.memory import anonymous_bytes
from bench.common.models import name_of
from bench.report.cpu import table
from bench.suites.cpu import size_mb
from edgekiln.engine.reports import read_report

INTERVAL_S = 0.05


@dataclass(frozen=True)
class Sampled:
    """A finished program: seconds, and its anonymous memory in bytes by the time in seconds."""

    seconds: float
    memory: list[tuple[float, int]]

    def peak_mb(self, start: float = 0.0, end: float = float("inf")) -> float:
        """The largest sample between two times, in MB (10^6 bytes)."""
        return max((size for when, size in self.memory if start <= when <= end), default=0) / 1e6


def sampled(command: list[str], log: Path) -> Sampled:
    """Run a program with its output in `log`, and messages and progress beside it.

    Raises:
        SystemExit: it failed.
    """
    memory = []
    start = time.perf_counter()
    with log.open("w") as output, log.with_suffix(".err").open("w") as messages:
        process = subprocess.Popen(command, stdout=output, stderr=messages)
        while process.poll() is None:
            memory.append((time.perf_counter() - start, anonymous_bytes(process.pid)))
            time.sleep(INTERVAL_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}: see {log.with_suffix('.err')}")
    return Sampled(time.perf_counter() - start, memory)


def by_step(build: Sampled, steps: dict[str, float]) -> list[list[str]]:
    """Rows of step, seconds and peak; steps end with the build, before which it imports and reads headers."""
    rows, start = [], build.seconds - sum(steps.values())
    rows.append(["start", f"{start:.1f}", f"{build.peak_mb(0, start):.0f}"])
    for step, seconds in steps.items():
        rows.append([step, f"{seconds:.1f}", f"{build.peak_mb(start, start + seconds):.0f}"])
        start += seconds
    return rows


@click.command()
@click.option("--model", required=True, help="Model argument of edgekiln engine, or a random-* shape.")
@click.option("--quant", default="int4", show_default=True)
@click.option("--gen-tokens", type=int, default=32, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("bench/results"), show_default=True)
def main(*, model: str, quant: str, gen_tokens: int, out: Path) -> None:
    """Build MODEL, run it, and write OUT/build_memory.md."""
    out.mkdir(parents=True, exist_ok=True)
    source = Path(model)
    if model in checkpoints.SHAPES:
        source = out / f"{name_of(model)}-hf"
        checkpoints.write(model, source)
    engine = out / f"{name_of(model)}-{quant}"
    edgekiln = [sys.executable, "-m", "edgekiln"]
    build = sampled([*edgekiln, "engine", str(source), "--quant", quant, "-o", str(engine)], out / "build.log")
    lines = [f"{model}, {size_mb(source):.0f} MB as {size_mb(engine):.0f} MB of {quant}", ""]
    lines += table(["step", "seconds", "peak anonymous, MB"], by_step(build, read_report(engine).steps))
    rows = []
    for name in ("first run", "second run"):
        workload = ["--prompt-tokens", "32", "--gen-tokens", str(gen_tokens), "--repeat", "1", "--json"]
        log = out / "run.log"
        run = sampled([*edgekiln, "bench", str(engine), *workload], log)
        figures = json.loads(log.read_text(encoding="utf-8"))
        speed = f"{figures['decode_tokens_per_s']:.2f}"
        load = f"{figures['load_ms'] / 1e3:.1f}"
        rows.append([name, load, speed, f"{run.peak_mb():.0f}", f"{figures['peak_rss_mb']:.0f}"])
    lines += table(["", "load, s", "decode, tokens/s", "peak anonymous, MB", "peak resident, MB"], rows)
    text = "\n".join(lines)
    (out / "build_memory.md").write_text(text + "\n", encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
