"""Stream an answer to stdout, and measure its speed."""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgekiln.runtimes.generate.answer import Token
    from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats


@dataclass
class AnswerStats:
    """Speed of one answer.

    Attributes:
        speculation: drafted and accepted tokens of the answer.
        prompt_tokens: tokens of the prompt; None where the KV cache already held a part of it.
        step_weight_bytes: bytes of weights that a decode step reads; None where the engine does not tell.
    """

    speculation: "SpeculationStats"
    prompt_tokens: int | None = None
    step_weight_bytes: int | None = None
    _start: float = field(default_factory=time.perf_counter)
    _times: list[float] = field(default_factory=list)

    def token(self) -> None:
        """Note the time at which a token arrived."""
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
        if self.step_weight_bytes is not None:
            parts.append(f"{self.step_weight_bytes / 1e6:.1f} MB of weights read per token")
        click.echo("; ".join(parts), err=True)


def write_answer(tokens: "Iterable[Token]", stats: AnswerStats, stopped: Callable[[], bool] = lambda: False) -> None:
    """Write the text of tokens to stdout as they arrive, and end the last line.

    Args:
        tokens: of one answer.
        stats: gets the time of every token.
        stopped: called after every token; True ends the answer.
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
