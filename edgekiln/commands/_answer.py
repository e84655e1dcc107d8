"""Stream an answer to stdout, and measure its speed."""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from edgekiln.units import size_text

if TYPE_CHECKING:
    from edgekiln.runtimes.generate.answer import FinishReason, Token
    from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats


@dataclass
class AnswerStats:
    """Speed of one answer.

    Attributes:
        speculation: drafted and accepted tokens of the answer.
        prompt_tokens: tokens of the prompt; None where the KV cache already held a part of it.
        step_weight_bytes: bytes of weights that a decode step reads; None where the engine does not tell.
        max_tokens: that were asked for, at most.
        tokens: of the answer, so far.
    """

    speculation: "SpeculationStats"
    prompt_tokens: int | None = None
    step_weight_bytes: int | None = None
    max_tokens: int | None = None
    tokens: "list[Token]" = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter)
    _times: list[float] = field(default_factory=list)

    def add(self, token: "Token") -> None:
        """Note a token and the time at which it arrived."""
        self._times.append(time.perf_counter())
        self.tokens.append(token)

    @property
    def finish_reason(self) -> "FinishReason | None":
        """Why the answer ended; None where it was stopped."""
        return self.tokens[-1].finish_reason if self.tokens else None

    @property
    def cut(self) -> str | None:
        """By what limit the answer was cut; None where it was not."""
        if self.finish_reason != "length":
            return None
        return "--max-tokens" if len(self.tokens) == self.max_tokens else "the length of the engine"

    def show_cut(self) -> None:
        """Say on stderr that the answer was cut."""
        if self.cut == "--max-tokens":
            click.secho(f"[cut at --max-tokens {self.max_tokens}: raise it for a longer answer]", dim=True, err=True)
        elif self.cut:
            click.secho("[cut: prompt and answer are as long as the engine holds]", dim=True, err=True)

    def timings(self) -> dict[str, float | None]:
        """Milliseconds to the first and to the last token, and tokens a second; None where there are too few."""
        if not self._times:
            return dict.fromkeys(("first_token_ms", "total_ms", "prompt_tokens_per_s", "answer_tokens_per_s"))
        first, span = self._times[0] - self._start, self._times[-1] - self._times[0]
        return {
            "first_token_ms": round(first * 1e3, 3),
            "total_ms": round((first + span) * 1e3, 3),
            "prompt_tokens_per_s": round(self.prompt_tokens / first, 3) if self.prompt_tokens else None,
            "answer_tokens_per_s": round((len(self._times) - 1) / span, 3) if span else None,
        }

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
        if self.cut:
            parts.append(f"cut by {self.cut}")
        if drafted := self.speculation.drafted:
            accepted = self.speculation.accepted
            parts.append(f"drafted {drafted} tokens, {accepted} accepted ({accepted / drafted:.0%})")
        if self.step_weight_bytes is not None:
            parts.append(f"{size_text(self.step_weight_bytes)} of weights read per token")
        click.echo("; ".join(parts), err=True)


def write_answer(tokens: "Iterable[Token]", stats: AnswerStats, stopped: Callable[[], bool] = lambda: False) -> None:
    """Write the text of tokens to stdout as they arrive, end the last line, and say if the answer was cut.

    Args:
        tokens: of one answer.
        stats: gets every token.
        stopped: called after every token; True ends the answer.
    """
    last = ""
    for token in tokens:
        stats.add(token)
        last = token.text or last
        sys.stdout.write(token.text)
        sys.stdout.flush()
        if stopped():
            break
    if not last.endswith("\n"):
        click.echo()
    stats.show_cut()
