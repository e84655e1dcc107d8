"""`edgekiln doctor`: what this machine can build and run."""

from dataclasses import asdict

import click

from edgekiln.commands.common import json_option, print_json, quiet_libraries, verbose_option


@click.command("doctor", short_help="Show what this machine can build and run.")
@json_option
@verbose_option
def command(*, as_json: bool) -> None:
    """Show processor, GPUs and libraries of this machine, which targets work here, and what the others need."""
    from edgekiln.machine import look, target_states

    quiet_libraries()
    machine = look()
    states = target_states(machine)
    if as_json:
        print_json({**asdict(machine), "targets": {name: asdict(state) for name, state in states.items()}})
        return
    native = f"built, {machine.native}" if machine.native else "not built: make native"
    for name, value in (
        ("system", f"{machine.system}, Python {machine.python}"),
        ("processor", f"{machine.processor}, {machine.cores} cores, {machine.memory_mb / 1e3:.1f} GB"),
        ("instructions", ", ".join(machine.instruction_sets) or "none of those that kernels ask for"),
        ("own kernels", native),
        ("CUDA driver", machine.cuda_driver or "none"),
        *(
            ("GPU", f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_mb / 1e3:.1f} GB")
            for gpu in machine.gpus
        ),
        ("libraries", ", ".join(f"{package} {version}" for package, version in machine.packages.items())),
        ("ONNX Runtime", ", ".join(machine.providers) or "not installed"),
    ):
        click.echo(f"{name:<13} {value}")
    click.secho("targets", bold=True)
    for target, state in states.items():
        words = [word for word, able in (("builds", state.builds), ("runs", state.runs)) if able]
        click.echo(f"  {target:<9} {' and '.join(words) or 'neither builds nor runs'}")
        for sentence in state.missing:
            click.echo(f"            {sentence}")
