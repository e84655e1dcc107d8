"""`edgekiln eval`: perplexity of an engine on a text, and its KL divergence from a reference."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekiln.calib.evaluation.options import WINDOW
from edgekiln.commands._engine import engine_or_none
from edgekiln.commands._options.common import (
    engine_argument,
    json_option,
    open_engine,
    pack_cache_option,
    threads_option,
    verbose_option,
)
from edgekiln.commands._output import print_json, progress_report
from edgekiln.commands._text import named_text
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import RequestError
from edgekiln.extras import requires_extra
from edgekiln.sources.named_texts import NAMED_TEXTS
from edgekiln.targets import TARGETS

if TYPE_CHECKING:
    from edgekiln.calib.evaluation.perplexity import Scorer
    from edgekiln.runtimes.text.tokenizer import Tokenizer


@click.command("eval", short_help="Measure quality on a text.")
@engine_argument
@click.option(
    "--text",
    required=True,
    metavar="FILE",
    help=f"UTF-8 text to predict; - is stdin; {', '.join(NAMED_TEXTS)} is downloaded from the Hugging Face hub.",
)
@click.option(
    "--window",
    type=click.IntRange(min=2),
    metavar="N",
    help=f"Tokens of a window, which starts with an empty KV cache [{WINDOW}, or what the engine holds].",
)
@click.option("--max-tokens", type=click.IntRange(min=2), metavar="N", help="Use only the first N tokens of the text.")
@click.option(
    "--reference",
    metavar="ENGINE_OR_MODEL",
    help="Compare with another engine, or with a model in float32 (needs the export extra).",
)
@click.option(
    "--on-cpu",
    is_flag=True,
    help="Run the engine's graph with ONNX Runtime on the CPU, for targets that this machine cannot run.",
)
@pack_cache_option
@threads_option
@json_option
@verbose_option
def command(
    *,
    engine: Path,
    text: str,
    window: int | None,
    max_tokens: int | None,
    reference: str | None,
    on_cpu: bool,
    pack_cache: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure ENGINE's perplexity on a text; with --reference, also the KL divergence from the reference."""
    from edgekiln.calib.evaluation.perplexity import perplexity

    content = named_text(text)
    holds = read_manifest(engine, verify=False).architecture.max_length
    window = min(WINDOW, holds) if window is None else window
    if window > holds:
        raise RequestError(f"a window of {window} tokens is over the {holds} that the engine holds: lower --window")
    scorer, tokenizer = _engine_scorer(engine, on_cpu, threads, pack_cache)
    with progress_report() as report:
        other = None
        if reference is not None:
            report("loading reference", 0.0)
            other = _reference_scorer(reference, threads, pack_cache)
            report("loading reference", 1.0)
        result = perplexity(
            scorer,
            tokenizer.encode(content),
            window=window,
            max_tokens=max_tokens,
            reference=other,
            progress=lambda done: report("predicting", done),
        )
    if as_json:
        print_json({"engine": str(engine), "text": text, "reference": reference, "window": window, **vars(result)})
        return
    click.echo(f"perplexity     {result.perplexity:.6g} over {result.tokens} tokens")
    if result.kl_divergence is not None and result.same_top is not None:
        click.echo(f"KL divergence  {result.kl_divergence:.5f} nats from {reference}")
        click.echo(f"same top token {result.same_top:.2%}")
        click.echo(f"reference ppl  {result.reference_perplexity:.6g}")


def _engine_scorer(engine: Path, on_cpu: bool, threads: int | None, pack_cache: bool) -> "tuple[Scorer, Tokenizer]":
    from edgekiln.runtimes.text.tokenizer import Tokenizer

    if on_cpu:
        manifest = read_manifest(engine)
        row = TARGETS.get(manifest.target)
        # The adapter of a target that needs no GPU has the kernels that users of the engine get.
        if row is None or row.to_run.gpu:
            from edgekiln.calib.evaluation.graph_scorer import graph_scorer

            return graph_scorer(engine, manifest, threads), Tokenizer.from_engine(engine, manifest)
    loaded = open_engine(engine, threads, pack_cache=pack_cache)
    return loaded.score, loaded.tokenizer


def _reference_scorer(reference: str, threads: int | None, pack_cache: bool) -> "Scorer":
    if (engine := engine_or_none(reference)) is not None:
        from edgekiln.api import Engine

        return Engine.open(engine, threads=threads, pack_cache=pack_cache).score
    from edgekiln.sources.resolve import resolve

    source = resolve(reference)
    with requires_extra("export"):
        from edgekiln.calib.evaluation.hf_reference import reference_scorer
    return reference_scorer(source)
