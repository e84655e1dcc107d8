"""`edgekiln engine`: build an engine directory from a model."""

import json
import math
from pathlib import Path
from typing import Any, get_args

import click

from edgekiln.calib.evaluation.options import QualityText
from edgekiln.commands._options.common import (
    extra,
    json_option,
    print_json,
    progress_report,
    quiet_libraries,
    read_text,
    verbose_option,
)
from edgekiln.commands._options.quantization import build_options, quantization_options, stopped_once
from edgekiln.commands._options.tensorrt import taken_tensorrt_options, tensorrt_options
from edgekiln.engine.directory import REPORT_FILE
from edgekiln.engine.manifest import EngineManifest
from edgekiln.pipeline.options import CacheType, Target
from edgekiln.sources.resolve import DEFAULT_MODEL, resolve


@click.command("engine", short_help="Build an engine from a model.")
@click.argument("model", default=DEFAULT_MODEL)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Engine directory [engines/NAME-QUANT]."
)
@click.option(
    "--target", type=click.Choice(get_args(Target)), default="ort-cpu", show_default=True, help="What runs it."
)
@quantization_options
@tensorrt_options
@click.option(
    "--kv",
    type=click.Choice(get_args(CacheType)),
    default="float32",
    show_default=True,
    help="Type of cached keys and values; int8 takes a quarter of the memory.",
)
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens a sequence may hold, at most; the model's context by default.",
)
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
    kv: CacheType,
    max_length: int | None,
    eval_text: Path | None,
    eval_tokens: int,
    trust_remote_code: bool,
    as_json: bool,
    **more: Any,
) -> None:
    """Build an engine from MODEL: a Hugging Face directory or hub id, a GGUF file, or smollm2-135m (the default)."""
    tensorrt, quantization = taken_tensorrt_options(more)
    options = build_options(
        target=target,
        tensorrt=tensorrt,
        kv=kv,
        max_length=max_length,
        quality_text=QualityText(eval_text.name, read_text(eval_text), eval_tokens) if eval_text else None,
        **quantization,
    )
    quiet_libraries()
    with stopped_once(), progress_report() as report:
        report("loading libraries", 0.0)
        with extra("export"):
            from edgekiln.pipeline.build import build_engine
        source = resolve(model, trust_remote_code=trust_remote_code, progress=report)
        suffix = "" if target == "ort-cpu" else f"-{target}"
        directory = output or Path("engines") / f"{source.name}-{options.quant}{suffix}"
        manifest = build_engine(source, directory, options, report)
    _summarize(directory, manifest, as_json)


def _summarize(directory: Path, manifest: EngineManifest, as_json: bool) -> None:
    report = json.loads((directory / REPORT_FILE).read_text(encoding="utf-8"))
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
