"""`edgekiln engine`: build an engine directory from a model."""

import contextlib
import json
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn, get_args

import click

from edgekiln import bundle
from edgekiln.calib.data_options import DataOptions
from edgekiln.calib.limits import Limits
from edgekiln.calib.presets import PRESETS
from edgekiln.calib.quality_options import QualityText
from edgekiln.calib.recipe import read_recipe
from edgekiln.calib.scheme import GROUP_SIZES
from edgekiln.commands.common import (
    extra,
    json_option,
    print_json,
    progress_report,
    quiet_libraries,
    read_text,
    verbose_option,
)
from edgekiln.errors import RequestError
from edgekiln.export.options import BuildOptions, Target
from edgekiln.sources import DEFAULT_MODEL, resolve


@click.command("engine", short_help="Build an engine from a model.")
@click.argument("model", default=DEFAULT_MODEL)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Engine directory [engines/NAME-QUANT]."
)
@click.option(
    "--target", type=click.Choice(get_args(Target)), default="ort-cpu", show_default=True, help="What runs it."
)
@click.option(
    "--quant",
    type=click.Choice(tuple(PRESETS)),
    default="int8",
    show_default=True,
    help="int8: weights and activations. int4: weights. none: float32. docs/quality.md tells the others apart.",
)
@click.option(
    "--recipe",
    "recipe_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="YAML that says what each layer gets, in place of --quant.",
)
@click.option(
    "--group-size",
    type=click.Choice(GROUP_SIZES),
    help="Weights that share a scale in the presets of 4 bits [32].",
)
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens a sequence may hold, at most; the model's context by default.",
)
@click.option(
    "--calib-data",
    metavar="DATA",
    help="Text file, JSONL of texts or messages, or a data set's name [text that the model writes].",
)
@click.option(
    "--calib-samples",
    type=click.IntRange(min=1),
    default=DataOptions.samples,
    show_default=True,
    metavar="N",
    help="Windows of calibration data, at most.",
)
@click.option(
    "--calib-length",
    type=click.IntRange(min=2),
    default=DataOptions.length,
    show_default=True,
    metavar="N",
    help="Tokens of a window.",
)
@click.option(
    "--max-ppl-increase",
    type=float,
    metavar="PERCENT",
    help="Raise layers to 8 bits until perplexity rises by no more [mixed: 1].",
)
@click.option("--max-kl", type=float, metavar="NATS", help="The same until the predictions differ by no more.")
@click.option(
    "--eval-text",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="UTF-8 text to compare the engine with the model on; the figures go into its report.",
)
@click.option(
    "--eval-tokens",
    type=click.IntRange(min=2),
    default=QualityText.max_tokens,
    show_default=True,
    metavar="N",
    help="Tokens of that text, at most.",
)
@click.option("--trust-remote-code", is_flag=True, help="Run model code that the checkpoint brings.")
@json_option
@verbose_option
def command(
    *,
    model: str,
    output: Path | None,
    target: Target,
    quant: str,
    recipe_file: Path | None,
    group_size: int | None,
    max_length: int | None,
    calib_data: str | None,
    calib_samples: int,
    calib_length: int,
    max_ppl_increase: float | None,
    max_kl: float | None,
    eval_text: Path | None,
    eval_tokens: int,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Build an engine from MODEL: a Hugging Face directory or hub id, a GGUF file, or smollm2-135m (the default)."""
    data = DataOptions(calib_data, calib_samples, calib_length)
    recipe = None
    if recipe_file is not None:
        if group_size is not None:
            raise RequestError("--group-size does not go with --recipe: write group_size in the file")
        with extra("export"):
            recipe = read_recipe(recipe_file)
        quant = recipe_file.stem
    options = BuildOptions(
        target=target,
        quant=quant,
        group_size=group_size,
        recipe=recipe,
        data=data,
        limits=Limits(max_ppl_increase, max_kl),
        max_length=max_length,
        quality_text=QualityText(eval_text.name, read_text(eval_text), eval_tokens) if eval_text else None,
    )
    quiet_libraries()
    with _stopped_once(), progress_report() as report:
        report("loading libraries", 0.0)
        with extra("export"):
            from edgekiln.export.build import build_engine
        source = resolve(model, trust_remote_code=trust_remote_code, progress=report)
        directory = output or Path("engines") / f"{source.name}-{quant}"
        manifest = build_engine(source, directory, options, report)
    _summarize(directory, manifest, as_json)


@contextlib.contextmanager
def _stopped_once() -> Iterator[None]:
    """End the block, and with it the program, on the first SIGINT or SIGTERM.

    Later ones are ignored, so that the half-built engine is removed and the exit status is the first one's.
    """
    stopped = False

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        nonlocal stopped
        stopped = True
        for each in previous:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        if not stopped:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _summarize(directory: Path, manifest: bundle.EngineManifest, as_json: bool) -> None:
    report = json.loads((directory / bundle.REPORT_FILE).read_text(encoding="utf-8"))
    size = sum(file.stat().st_size for file in directory.iterdir())
    if as_json:
        print_json({"engine": str(directory), "target": manifest.target, "bytes": size, **report})
        return
    for note in report["notes"]:
        click.echo(f"note: {note}", err=True)
    click.echo(
        f"{directory}: {manifest.name} {manifest.quantization.scheme} for {manifest.target}, {size / 1e6:.0f} MB, "
        f"built in {report['build_seconds']:.1f} s with {report['peak_rss_mb']:.0f} MB of memory"
    )
    if quality := report["quality"]:
        before, after = (quality[name] or math.inf for name in ("perplexity_before", "perplexity_after"))
        click.echo(
            f"perplexity {before:.5g} in float32, {after:.5g} now; KL divergence {quality['kl_divergence']:.5f} nats"
        )
