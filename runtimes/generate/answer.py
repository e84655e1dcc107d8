"""An answer as it grows: its tokens with their text, and why it ends."""

from dataclasses import dataclass
from typing import Literal

from edgekiln.runtimes.generate.answer_text import AnswerText
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.sampling.sampler import Sampled
from edgekiln.runtimes.text.tokenizer import Tokenizer

FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token.

    Attributes:
        index: index of its prompt in the batch.
        id: token id.
        text: what the token adds to the answer: whole characters, often none. The texts of all tokens of a prompt,
            concatenated, are the answer.
        logprob: natural log-probability under the model, before biases, penalties, a constraint, temperature and
            filters; None unless requested.
        finish_reason: why the answer ended; None except for its last token. "eos" also if a stop string ends in the
            end-of-sequence token; "stop" also if the answer is complete, as its constraint says.
        top_logprobs: ids of the most likely tokens in this place with their log-probabilities, the most likely first;
            empty unless requested.
    """

    index: int
    id: int
    text: str
    logprob: float | None
    finish_reason: FinishReason | None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Answer:
    """The answer to one prompt: turns token ids into text and detects its end."""

    def __init__(self, index: int, tokenizer: Tokenizer, options: GenerateOptions, room: int) -> None:
        """Begin the answer to prompt `index`, of at most `room` tokens."""
        self._index = index
        self._eos: frozenset[int] = frozenset() if options.ignore_eos else tokenizer.eos_ids
        self._text = AnswerText(tokenizer, options.stop, options.special_tokens, self._eos)
        self.left = min(options.max_tokens, room)  # most tokens that may follow

    def add(self, sampled: Sampled) -> Token:
        """Add a token that was drawn."""
        token = sampled.token
        self.left -= 1
        text, stopped = self._text.push(token)
        reason: FinishReason | None = None
        if token in self._eos:
            reason = "eos"  # also if a stop string ends in it
        elif stopped or sampled.ended:
            reason = "stop"
        elif self.left == 0:
            reason = "length"
        if reason is not None and not stopped:
            rest, stopped = self._text.flush()
            text += rest
            if stopped and reason == "length":
                reason = "stop"
        return Token(self._index, token, text, sampled.logprob, reason, sampled.top_logprobs)
