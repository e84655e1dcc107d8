"""ort-cuda engines on this machine's GPU, and transformers with torch where installed; prints one JSON object.

`bench/gpu.sh` sets up the environment. Every case runs in its own process, so that its memory is the growth of what the
GPU reports as used.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from bench.common.options import numbers
from edgekiln.system import detect

TIMEOUT_S = 300


def cases(engines: tuple[Path, ...], checkpoints: tuple[Path, ...], reference: Path | None) -> list[list[str]]:
    """Arguments of `bench.suites.gpu_case`, without the workload."""
    found = []
    for engine in engines:
        if reference is not None:
            found.append(["greedy", str(engine), "--reference", str(reference)])
        found += [["engine", str(engine), "--graph"], ["engine", str(engine), "--no-graph"]]
    for checkpoint in checkpoints:
        found += [["torch", str(checkpoint), "--no-graph"], ["torch", str(checkpoint), "--graph"]]
    return found


def run(arguments: list[str]) -> dict[str, Any]:
    """Output of one case, or why it failed."""
    about: dict[str, Any] = {"case": arguments}
    try:
        result = subprocess.run(
            [sys.executable, "-m", "bench.suites.gpu_case", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return about | {"failed": f"took more than {TIMEOUT_S} s"}
    if result.returncode:
        return about | {"failed": result.stderr.strip().splitlines()[-3:]}
    return about | json.loads(result.stdout.splitlines()[-1])


@click.command()
@click.argument("engines", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--reference",
    type=click.Path(path_type=Path, exists=True),
    help="ort-cpu reference engine.",
)
@click.option("--checkpoint", multiple=True, type=click.Path(path_type=Path, exists=True), help="For transformers.")
@click.option("--batch", type=numbers, default="1,8", show_default=True)
@click.option("--context", type=numbers, default="512,4096", show_default=True, help="Prompt tokens.")
@click.option("--gen-tokens", type=int, default=128, show_default=True)
@click.option("--repeat", type=int, default=3, show_default=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", help="cpu: a dry run.")
def main(
    *,
    engines: tuple[Path, ...],
    reference: Path | None,
    checkpoint: tuple[Path, ...],
    batch: list[int],
    context: list[int],
    gen_tokens: int,
    repeat: int,
    device: str,
) -> None:
    """Measure ENGINES of target ort-cuda."""
    machine = detect()
    results = []
    for arguments in cases(engines, checkpoint, reference):
        workloads = [(1, 1)] if arguments[0] == "greedy" else itertools.product(batch, context)
        for sequences, tokens in workloads:
            workload = ["--batch", sequences, "--context", tokens, "--gen-tokens", gen_tokens, "--repeat", repeat]
            results.append(run([*arguments, *map(str, workload), "--device", device]))
            click.echo(json.dumps(results[-1]), err=True)
    about = {"gpus": [vars(gpu) for gpu in machine.gpus], "cuda": machine.cuda_driver, "packages": machine.packages}
    click.echo(json.dumps({**about, "results": results}, indent=1))


if __name__ == "__main__":
    main()
