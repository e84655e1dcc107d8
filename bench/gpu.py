"""ort-cuda engines on this machine's GPU, beside transformers with torch where that is installed; prints one JSON.

`bench/gpu.sh` sets the environment up. Every case runs in a process of its own, so that the memory it takes is what
the GPU reports more than before.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from options import numbers

from edgekiln.system import look

CASE = Path(__file__).with_name("gpu_case.py")
TIMEOUT_S = 300


def cases(engines: tuple[Path, ...], checkpoints: tuple[Path, ...], reference: Path | None) -> list[list[str]]:
    """Arguments of `gpu_case.py`, but for the workload."""
    found = []
    for engine in engines:
        if reference is not None:
            found.append(["greedy", str(engine), "--reference", str(reference)])
        found += [["engine", str(engine), "--graph"], ["engine", str(engine), "--no-graph"]]
    for checkpoint in checkpoints:
        found += [["torch", str(checkpoint), "--no-graph"], ["torch", str(checkpoint), "--graph"]]
    return found


def run(arguments: list[str]) -> dict[str, Any]:
    """What a case prints; why it failed, if it did."""
    about: dict[str, Any] = {"case": arguments}
    try:
        result = subprocess.run(
            [sys.executable, str(CASE), *arguments], check=False, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return about | {"failed": f"took more than {TIMEOUT_S} s"}
    if result.returncode:
        return about | {"failed": result.stderr.strip().splitlines()[-3:]}
    return about | json.loads(result.stdout.splitlines()[-1])


@click.command()
@click.argument("engines", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--reference", type=click.Path(path_type=Path, exists=True), help="ort-cpu engine whose answers count.")
@click.option("--checkpoint", multiple=True, type=click.Path(path_type=Path, exists=True), help="For transformers.")
@click.option("--batch", type=numbers, default="1,8", show_default=True)
@click.option("--context", type=numbers, default="512,4096", show_default=True, help="Prompt tokens.")
@click.option("--gen-tokens", type=int, default=128, show_default=True)
@click.option("--repeat", type=int, default=3, show_default=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", help="cpu: a rehearsal.")
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
    machine = look()
    results = []
    for arguments in cases(engines, checkpoint, reference):
        workloads = [(1, 1)] if arguments[0] == "greedy" else itertools.product(batch, context)
        for rows, tokens in workloads:
            workload = ["--batch", rows, "--context", tokens, "--gen-tokens", gen_tokens, "--repeat", repeat]
            results.append(run([*arguments, *map(str, workload), "--device", device]))
            click.echo(json.dumps(results[-1]), err=True)
    about = {"gpus": [vars(gpu) for gpu in machine.gpus], "cuda": machine.cuda_driver, "packages": machine.packages}
    click.echo(json.dumps({**about, "results": results}, indent=1))


if __name__ == "__main__":
    main()
