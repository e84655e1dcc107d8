"""What `run` and `chat` share: how the answer is sampled, and writing it as it comes."""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgekiln.commands._options.common import Text, open_runtime

if TYPE_CHECKING:
    from edgekiln.engine.manifest import EngineManifest
    from edgekiln.runtimes.base import Runtime
    from edgekiln.runtimes.generate.generate import GenerateOptions, Token
    from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
    from edgekiln.runtimes.text.tokenizer import Tokenizer

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--system", type=Text(), metavar="TEXT", help="System message of the chat."),
    click.option(
        "--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, metavar="N", help="Of one answer."
    ),
    click.option("--temperature", type=float, metavar="T", help="0 takes the likeliest token [the model's, or 0]."),
    click.option("--top-k", type=int, metavar="K", help="Sample from the K likeliest tokens; 0 is off."),
    click.option("--top-p", type=float, metavar="P", help="Sample from the likeliest tokens that make up P."),
    click.option("--min-p", type=float, metavar="P", help="Sample from tokens at least P times the likeliest's share."),
    click.option("--repetition-penalty", type=float, metavar="R", help="Above 1, seen tokens become less likely."),
    click.option("--seed", type=int, metavar="N", help="The same seed gives the same answer."),
    click.option("--stop", type=Text(), multiple=True, metavar="TEXT", help="End before TEXT; may be repeated."),
    click.option(
        "--speculate/--no-speculate",
        default=True,
        show_default=True,
        help="Draft what repeats and verify it, where that is faster; the answer is the same.",
    ),
    click.option("--stats", is_flag=True, help="Print speeds on stderr."),
)


def generation_options(command: _Command) -> _Command:
    """Add the options of `_OPTIONS` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class LoadedEngine:
    """An engine ready to answer."""

    manifest: "EngineManifest"
    runtime: "Runtime"
    tokenizer: "Tokenizer"


def load(engine: Path, threads: int | None) -> LoadedEngine:
    """Open an engine and its tokenizer; raises EdgekilnError in one sentence."""
    from edgekiln.engine.manifest import read_manifest
    from edgekiln.runtimes.text.tokenizer import Tokenizer

    runtime = open_runtime(engine, threads)
    manifest = read_manifest(engine, verify=False)  # opening has verified it
    return LoadedEngine(manifest, runtime, Tokenizer.from_engine(engine, manifest))


def make_options(
    manifest: "EngineManifest", max_tokens: int, stop: tuple[str, ...], speculate: bool, **sampling: float | None
) -> "GenerateOptions":
    """What the command line chose, on top of the model's own sampling defaults.

    Raises:
        RequestError: a value is out of its range.
    """
    from edgekiln.runtimes.generate.generate import GenerateOptions
    from edgekiln.runtimes.sampling.sampler import SamplingOptions

    chosen = SamplingOptions.from_defaults(manifest.sampling, **sampling)
    return GenerateOptions(max_tokens=max_tokens, sampling=chosen, stop=stop, speculate=speculate)


@dataclass
class Stats:
    """Speed of one answer.

    Attributes:
        speculation: drafted and accepted tokens of the answer.
        prompt_tokens: None where not all of the prompt was computed.
    """

    speculation: "SpeculationStats"
    prompt_tokens: int | None = None
    _start: float = field(default_factory=time.perf_counter)
    _times: list[float] = field(default_factory=list)

    def token(self) -> None:
        """Note that a token has come."""
        self._times.append(time.perf_counter())

    def show(self) -> None:
        """Print the speeds on stderr."""
        if not self._times:
            return
        first = self._times[0] - self._start
        parts = [f"first token after {first * 1e3:.0f} ms"]
        if self.prompt_tokens is not None:
            parts.append(f"prompt {self.prompt_tokens} tokens, {self.prompt_tokens / first:.1f} tokens/s")
        answer = f"answer {len(self._times)} tokens"
        if len(self._times) > 1:
            answer += f", {(len(self._times) - 1) / (self._times[-1] - self._times[0]):.1f} tokens/s"
        parts.append(answer)
        if drafted := self.speculation.drafted:
            accepted = self.speculation.accepted
            parts.append(f"drafted {drafted} tokens, {accepted} accepted ({accepted / drafted:.0%})")
        click.echo("; ".join(parts), err=True)


def write_answer(tokens: "Iterable[Token]", stats: Stats, stopped: Callable[[], bool] = lambda: False) -> None:
    """Write the text of tokens to stdout as they come, and a line end after the last.

    Args:
        tokens: of one answer.
        stats: is told of every token.
        stopped: asked after every token whether to leave it at that.
    """
    last = ""
    for token in tokens:
        stats.token()
        last = token.text or last
        sys.stdout.write(token.text)
        sys.stdout.flush()
        if stopped():
            break
    if not last.endswith("\n"):
        click.echo()
