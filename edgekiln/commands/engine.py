"""`edgekiln engine`: build an engine directory from a model."""

import math
from pathlib import Path
from typing import Any, get_args

import click

from edgekiln.calib.evaluation.options import QualityText
from edgekiln.commands._options.common import is_verbose, json_option, quiet_option, verbose_option
from edgekiln.commands._options.quantization import build_options, quantization_options
from edgekiln.commands._options.tensorrt import split_tensorrt_options, tensorrt_options
from edgekiln.commands._output import no_steps, print_json, print_notes, progress_report
from edgekiln.commands._signals import exit_on_signal
from edgekiln.commands._text import named_text
from edgekiln.engine.directory import check_output
from edgekiln.engine.engines import ENGINES
from edgekiln.engine.manifest import EngineManifest
from edgekiln.extras import requires_extra
from edgekiln.pipeline.options import CacheType
from edgekiln.sources.resolve import DEFAULT_MODEL, resolve
from edgekiln.targets import DEFAULT_TARGET, TARGETS
from edgekiln.units import size_text


@click.command("engine", short_help="Build an engine from a model.")
@click.argument("model", default=DEFAULT_MODEL)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Engine directory [engines/NAME-QUANT]."
)
@click.option(
    "--target",
    type=click.Choice(tuple(TARGETS)),
    default=DEFAULT_TARGET,
    show_default=True,
    help="Runtime to build for. " + "; ".join(f"{row.name}: {row.description}" for row in TARGETS.values()) + ".",
)
@quantization_options
@tensorrt_options
@click.option(
    "--kv",
    type=click.Choice(get_args(CacheType)),
    default="float32",
    show_default=True,
    help="Data type of the KV cache; int8 takes a quarter of the memory.",
)
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens of a sequence, at most [the model's context length].",
)
@click.option(
    "--eval-text",
    metavar="FILE",
    help="Text to compare the engine and the float32 model on, as `eval --text`; results go into the engine's report.",
)
@click.option(
    "--eval-tokens",
    type=click.IntRange(min=2),
    default=QualityText.max_tokens,
    show_default=True,
    metavar="N",
    help="Use only the first N tokens of that text.",
)
@click.option("--force", is_flag=True, help="Replace an engine of another model.")
@click.option("--trust-remote-code", is_flag=True, help="Run model code that the checkpoint contains.")
@click.option("--dry-run", is_flag=True, help="Only estimate sizes, memory and time; reads, and downloads, no weights.")
@quiet_option
@json_option
@verbose_option
def command(
    *,
    model: str,
    output: Path | None,
    target: str,
    kv: CacheType,
    max_length: int | None,
    eval_text: str | None,
    eval_tokens: int,
    force: bool,
    trust_remote_code: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **more: Any,
) -> None:
    """Build an engine from MODEL: a Hugging Face directory or hub id, a GGUF file, or smollm2-135m (the default)."""
    tensorrt, quantization = split_tensorrt_options(more)
    options = build_options(
        target=target,
        tensorrt=tensorrt,
        kv=kv,
        max_length=max_length,
        quality_text=_quality_text(eval_text, eval_tokens),
        force=force,
        **quantization,
    )
    if output is not None:
        check_output(output)  # before a model is downloaded
    suffix = "" if target == DEFAULT_TARGET else f"-{target}"
    if dry_run:
        from edgekiln.commands._build_estimate import show_estimate

        show_estimate(model, trust_remote_code, options, output or ENGINES / f"NAME-{options.quant}{suffix}", as_json)
        return
    with exit_on_signal(), no_steps() if quiet else progress_report(lines=True) as report:
        report("loading libraries", 0.0)
        with requires_extra("export"):
            from edgekiln.api_build import build
        source = resolve(model, trust_remote_code=trust_remote_code, progress=report)
        directory = output or ENGINES / f"{source.name}-{options.quant}{suffix}"
        engine = build(source, directory, progress=report, **vars(options))
    if not quiet or as_json:
        _summarize(directory, engine.manifest, as_json, is_verbose(click.get_current_context()))


def _quality_text(name: str | None, tokens: int) -> QualityText | None:
    if name is None:
        return None
    return QualityText("stdin" if name == "-" else Path(name).name, named_text(name), tokens)


def _summarize(directory: Path, manifest: EngineManifest, as_json: bool, verbose: bool) -> None:
    from edgekiln.engine.reports import read_report
    from edgekiln.runtimes.ort.kernels import LIBRARY, how_to_install

    report = read_report(directory)
    size = sum(file.stat().st_size for file in directory.iterdir())
    if as_json:
        print_json({"engine": str(directory), "target": manifest.target, "bytes": size, **report.model_dump()})
        return
    print_notes(report.notes, details=verbose)
    if manifest.target == DEFAULT_TARGET and not LIBRARY.is_file():
        click.echo(
            f"note: edgekiln's kernels are not installed, without them engines are slower: {how_to_install()}", err=True
        )
    click.echo(
        f"{directory}: {manifest.name} {manifest.quantization.scheme} for {manifest.target}, {size_text(size)}, "
        f"built in {report.build_seconds:.1f} s with {size_text(report.peak_rss_mb * 1e6)} of memory"
    )
    if quality := report.quality:
        before, after = (value or math.inf for value in (quality.perplexity_before, quality.perplexity_after))
        click.echo(
            f"perplexity {before:.5g} in float32, {after:.5g} now; KL divergence {quality.kl_divergence:.5f} nats"
        )
