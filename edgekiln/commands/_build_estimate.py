"""What `edgekiln engine --dry-run` prints."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekiln.commands._options.common import is_verbose
from edgekiln.commands._output import heading, print_json, print_notes, progress_report
from edgekiln.extras import requires_extra
from edgekiln.runtimes.usable_memory import usable_memory
from edgekiln.units import size_text

if TYPE_CHECKING:
    from edgekiln.pipeline.estimate import BuildEstimate
    from edgekiln.pipeline.options import BuildOptions


def show_estimate(model: str, trust_remote_code: bool, options: "BuildOptions", output: Path, as_json: bool) -> None:
    """Estimate a build and print the result.

    Args:
        model: model argument.
        trust_remote_code: run model code that the checkpoint contains.
        options: of the build.
        output: engine directory; NAME in it is the model's.
        as_json: print a JSON object.

    Raises:
        SourceError, UnsupportedModelError, RequestError: as those of a build.
    """
    with progress_report() as report:
        report("loading libraries", 0.0)
        with requires_extra("export"):
            from edgekiln.pipeline.estimate import estimate
            from edgekiln.sources.outline import outline
        source, to_download = outline(model, trust_remote_code, report)
        found = estimate(source, options)
    output = Path(str(output).replace("NAME", source.name))
    if as_json:
        facts: dict[str, Any] = {"engine": str(output), "model": source.name, "target": options.target}
        print_json({**facts, "download_bytes": to_download, **vars(found), "engine_bytes": found.engine_bytes})
        return
    print_notes(found.notes, details=is_verbose(click.get_current_context()))
    heading(f"{output}: {source.name} {options.quant} for {options.target}, not built")
    for name, value in (
        ("parameters", f"{found.parameters / 1e6:.1f} M, {_layers(found)}"),
        *([("download", size_text(to_download))] if to_download else []),
        ("engine", f"about {size_text(found.engine_bytes)}{_room_on_disk(output, found.engine_bytes)}"),
        ("", f"{size_text(found.weights_bytes)} of weights, "
         f"{size_text(found.other_bytes)} of graphs, tokenizer and reports"
         + (f", {size_text(found.plan_bytes)} of the plan" if found.plan_bytes else "")),
        ("build memory", f"about {size_text(found.peak_bytes)}{_room_in_memory(found.peak_bytes)}"),
        ("build time", f"about {_time(found.seconds)} where nothing else runs"),
        ("run memory", f"{size_text(found.weights_bytes)} of weights, and for a sequence of {found.max_length} tokens "
         f"{size_text(found.cache_bytes_per_token * found.max_length)} of keys and values at most"),
    ):  # fmt: skip
        click.echo(f"  {name:<13} {value}")
    click.echo("  estimated from the shapes of the model; memory and time after builds of small models on two cores")


def _layers(found: "BuildEstimate") -> str:
    counts = [f"{count} weight{'' if count == 1 else 's'} with {bits} bits" for bits, count in found.layers.items()]
    if found.kept:
        counts.append(f"{found.kept} of them as in the checkpoint")
    return ", ".join([*counts, f"{found.float_share:.1%} of the parameters in floating point"])


def _time(seconds: float) -> str:
    return f"{max(seconds, 1):.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _room_on_disk(output: Path, wanted: int) -> str:
    parent = next(path for path in output.absolute().parents if path.exists())
    free = shutil.disk_usage(parent).free
    return "" if wanted < free else f", more than the {size_text(free)} that are free in {parent}"


def _room_in_memory(wanted: int) -> str:
    usable = usable_memory()
    return "" if wanted < usable else f", more than the {size_text(usable)} that are available"
