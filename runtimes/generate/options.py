"""How to generate an answer."""

from dataclasses import dataclass, field
from typing import get_args

from edgekiln.arguments import utf8
from edgekiln.errors import RequestError
from edgekiln.runtimes.sampling.constraint import Constraint
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.stream import SpecialTokensChoice

MOST_TOP_LOGPROBS = 20


@dataclass(frozen=True)
class GenerateOptions:
    """How to generate an answer.

    Attributes:
        max_tokens: most tokens of an answer, including an end-of-sequence token.
        sampling: how each token is chosen.
        stop: stop strings; an answer ends before the first of them. They are matched in its text with all special
            tokens, whichever of them are shown: a stop string may be a special token, or cross one. Only one with
            U+FFFD, which stands for bytes that are no text, is matched in the text that is shown.
        ignore_eos: continue after an end-of-sequence token, up to `max_tokens`.
        logprobs: return the log-probability of each token.
        top_logprobs: with `logprobs`, also return so many of the most likely tokens, 20 at most, with theirs.
        constraint: what the answer is limited to, such as a grammar. The answer ends when it is complete.
        speculate: use speculative decoding for a single prompt, if the runtime supports it and while it is faster. The
            answer does not change.
        special_tokens: the special tokens in the text: "auto" shows all but turn marks, which are bos, eos and pad;
            "show" also shows these, and the token that ends the answer; "hide" shows none.

    Raises:
        RequestError: a value is out of range.
    """

    max_tokens: int = 256
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    speculate: bool = True
    special_tokens: SpecialTokensChoice = "auto"
    top_logprobs: int = 0
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.top_logprobs <= MOST_TOP_LOGPROBS:
            raise RequestError(f"top_logprobs must be in [0, {MOST_TOP_LOGPROBS}], got {self.top_logprobs}")
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs goes with logprobs: give that too")
        if isinstance(self.stop, str) or not all(isinstance(text, str) for text in self.stop):
            raise RequestError(f"stop must be a tuple of strings, got {self.stop!r:.60}")
        if not all(map(utf8, self.stop)):
            raise RequestError("stop must be strings that are not empty")
        if self.special_tokens not in get_args(SpecialTokensChoice):
            choices = ", ".join(get_args(SpecialTokensChoice))
            raise RequestError(f"special_tokens must be one of {choices}, got {self.special_tokens!s:.60}")
