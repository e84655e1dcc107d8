"""`edgekiln doctor`: the targets that this machine can build and run."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from edgekiln.commands._options.common import json_option, verbose_option
from edgekiln.commands._output import heading, print_json
from edgekiln.errors import RequestError

if TYPE_CHECKING:
    from edgekiln.system import Machine, TargetState


@click.command("doctor", short_help="Show which targets work on this machine.")
@click.option(
    "--target", metavar="TARGET", help="Only say whether engines of TARGET run here; exit with 1 if they do not."
)
@json_option
@verbose_option
def command(*, target: str | None, as_json: bool) -> None:
    """Show processor, GPUs and libraries of this machine, the targets that work here, and what the others need."""
    from edgekiln.system import detect, target_states

    machine = detect()
    states = target_states(machine)
    if target is not None:
        _tell(target, states)
        return
    if as_json:
        print_json({**asdict(machine), "targets": {name: asdict(state) for name, state in states.items()}})
        return
    for name, value in (
        ("system", f"{machine.system}, Python {machine.python}"),
        ("processor", f"{machine.processor}, {_cores(machine)}, {machine.memory_mb / 1e3:.1f} GB"),
        ("threads", _threads(machine)),
        ("instructions", ", ".join(machine.instruction_sets) or "none of those that kernels use"),
        ("kernels", _kernels(machine)),
        ("CUDA driver", machine.cuda_driver or "none"),
        *(
            ("GPU", f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_mb / 1e3:.1f} GB")
            for gpu in machine.gpus
        ),
        ("libraries", ", ".join(f"{package} {version}" for package, version in machine.packages.items())),
        ("ONNX Runtime", ", ".join(machine.providers) or "not installed"),
    ):
        click.echo(f"{name:<13} {value}")
    _print_ops(machine)
    heading("targets")
    width = max(map(len, states)) + 2
    for name, state in states.items():
        words = [word for word, able in (("builds", state.builds), ("runs", state.runs)) if able]
        click.echo(f"  {name:<{width}}{' and '.join(words) or 'neither builds nor runs'}")
        for sentence in state.missing:
            click.echo(f"  {'':<{width}}{sentence}")


def _cores(machine: "Machine") -> str:
    if not machine.efficiency_cores:
        return f"{machine.cores} cores"
    return f"{machine.cores - machine.efficiency_cores} performance cores, {machine.efficiency_cores} efficiency cores"


def _threads(machine: "Machine") -> str:
    quota = f", CPU quota of {machine.cpu_quota:g} processors" if machine.cpu_quota else ""
    return f"{machine.default_threads} by default, at most {machine.processors}{quota}"


def _kernels(machine: "Machine") -> str:
    from edgekiln.runtimes.ort.kernels import ISA_VARIABLE, how_to_install

    if machine.kernels is None:
        return f"not installed, so ONNX Runtime's slower ones run: {how_to_install()}"
    return f"{machine.kernels}, of {', '.join(machine.kernel_instruction_sets)} ({ISA_VARIABLE} chooses)"


def _print_ops(machine: "Machine") -> None:
    """Say who runs each op; the two forms of an op, for a float and an int8 KV cache, are one line where they agree."""
    if not machine.ops:
        return
    heading("ops of ort-cpu")
    lines = dict.fromkeys((op.name, op.registered, op.kernels) for op in machine.ops)
    width = max(len(name) for name, _, _ in lines) + 2
    for name, registered, kernels in lines:
        who = ": ".join(filter(None, ("edgekiln", ", ".join(kernels)))) if registered else "ONNX Runtime"
        click.echo(f"  {name:<{width}}{who}")


def _tell(target: str, states: "dict[str, TargetState]") -> None:
    if target not in states:
        raise RequestError(f"target must be one of {', '.join(states)}, got {target}")
    state = states[target]
    if not state.runs:
        click.echo(f"engines of {target} do not run here: {'; '.join(state.running)}")
        raise click.exceptions.Exit(1)
    click.echo(f"engines of {target} run here")
