"""`edgekiln bench`: the speed of an engine on this machine."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekiln.commands._options.common import (
    engine_argument,
    json_option,
    kernels_option,
    open_engine,
    pack_cache_option,
    threads_option,
    verbose_option,
)
from edgekiln.commands._output import print_json, progress_report

if TYPE_CHECKING:
    from edgekiln.runtimes.base import KernelsChoice

_COUNT = click.IntRange(min=1)


@click.command("bench", short_help="Measure speed and memory.")
@engine_argument
@click.option(
    "--prompt-tokens", type=_COUNT, default=512, show_default=True, metavar="N", help="Tokens of each prompt."
)
@click.option(
    "--gen-tokens",
    type=click.IntRange(min=2),
    default=128,
    show_default=True,
    metavar="N",
    help="Tokens generated for each prompt.",
)
@click.option("--batch", type=_COUNT, default=1, show_default=True, metavar="N", help="Prompts of a batch.")
@click.option(
    "--repeat",
    type=_COUNT,
    default=5,
    show_default=True,
    metavar="N",
    help="Measurements, after one that is discarded.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random prompts.")
@kernels_option
@pack_cache_option
@threads_option
@json_option
@verbose_option
def command(
    *,
    engine: Path,
    prompt_tokens: int,
    gen_tokens: int,
    batch: int,
    repeat: int,
    kernels: "KernelsChoice",
    seed: int,
    pack_cache: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure time to first token, prefill and decode speed, memory and load time of ENGINE."""
    from edgekiln.benchmark import Spread, Workload, peak_rss_mb, run
    from edgekiln.engine.reports import step_weight_bytes

    start = time.perf_counter()
    runtime = open_engine(engine, threads, kernels, pack_cache).runtime
    load_ms = (time.perf_counter() - start) * 1e3
    workload = Workload(prompt_tokens, gen_tokens, batch, repeat)
    with progress_report(animated=False) as report:
        result = run(runtime, workload, seed, lambda done: report("measuring", done))
    peak = peak_rss_mb()
    weight_bytes = step_weight_bytes(engine)
    if as_json:
        about = {
            "engine": str(engine),
            "target": runtime.properties.target,
            "kernels": runtime.kernels,
            **vars(workload),
        }
        memory = {"peak_rss_mb": peak, "step_weight_bytes": weight_bytes}
        print_json({**about, "load_ms": load_ms, **result.as_json(), **memory})
        return

    def line(name: str, value: Spread | float, unit: str) -> str:
        if isinstance(value, float):
            return f"{name:<16}{value:>10.1f} {unit}"
        return f"{name:<16}{value.median:>10.1f} {unit:<9}({value.low:.1f} to {value.high:.1f})"

    click.echo(f"{engine}: {prompt_tokens} prompt tokens, {gen_tokens} generated, batch {batch}, {repeat} repeats")
    click.echo(f"{'kernels':<16}{runtime.kernels:>10}")
    click.echo(line("load", load_ms, "ms"))
    click.echo(line("first token", result.ttft_ms, "ms"))
    click.echo(line("prefill", result.prefill_tokens_per_s, "tokens/s"))
    click.echo(line("decode", result.decode_tokens_per_s, "tokens/s"))
    click.echo(line("inter-token p50", result.inter_token_p50_ms, "ms"))
    click.echo(line("inter-token p95", result.inter_token_p95_ms, "ms"))
    click.echo(line("peak memory", peak, "MB"))
    if weight_bytes is not None:
        click.echo(line("read per token", weight_bytes / 1e6, "MB of weights"))
