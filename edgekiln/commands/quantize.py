"""`edgekiln quantize`: write a quantized checkpoint for transformers and vLLM."""

from pathlib import Path
from typing import Any

import click

from edgekiln.commands._options.common import is_verbose, json_option, quiet_option, verbose_option
from edgekiln.commands._options.quantization import build_options, quantization_options
from edgekiln.commands._output import no_steps, print_json, print_notes, progress_report
from edgekiln.commands._signals import exit_on_signal
from edgekiln.engine.directory import check_output
from edgekiln.extras import requires_extra
from edgekiln.sources.resolve import DEFAULT_MODEL, resolve
from edgekiln.units import size_text


@click.command("quantize", short_help="Write a quantized checkpoint.")
@click.argument("model", default=DEFAULT_MODEL)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Checkpoint directory."
)
@quantization_options
@quiet_option
@json_option
@verbose_option
def command(*, model: str, output: Path, quiet: bool, as_json: bool, **quantization: Any) -> None:
    """Quantize MODEL and write it as a compressed-tensors checkpoint, which transformers loads and vLLM serves."""
    options = build_options(**quantization)
    with exit_on_signal(), no_steps() if quiet else progress_report(lines=True) as report:
        report("loading libraries", 0.0)
        with requires_extra("calib"):
            from edgekiln.integrations.compressed_tensors import CHECKPOINT, is_checkpoint, save_compressed_tensors
        check_output(output, is_checkpoint, CHECKPOINT)  # before a model is downloaded
        source = resolve(model, progress=report)
        checkpoint = save_compressed_tensors(source, output, options, report)
    if as_json:
        print_json({"checkpoint": str(output), "bytes": checkpoint.size, "notes": checkpoint.notes})
        return
    if quiet:
        return
    print_notes(checkpoint.notes, details=is_verbose(click.get_current_context()))
    click.echo(f"{output}: {source.name} {options.quant} for transformers and vLLM, {size_text(checkpoint.size)}")
