"""The bodies of /v1/completions, /tokenize and /detokenize."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from edgekiln.serve.schemas.sampling import ChoiceFields


class CompletionRequest(ChoiceFields):
    """Text to continue.

    Attributes:
        prompt: text, token ids, or a list of either.
        echo: begin each answer with its prompt.
        best_of: OpenAI's choice among more answers, which must be `n` here.
        logprobs: log-probabilities of the answer's tokens, and of so many of the likeliest at their places.
    """

    prompt: Any
    echo: bool = False
    best_of: int | None = None
    logprobs: int | None = Field(None, ge=0, le=20)


class TokenizeRequest(BaseModel):
    """Text to tokenize.

    Attributes:
        content: the text.
        prompt: vLLM's name of `content`.
        add_special: also add the special tokens that a prompt begins with.
        with_pieces: also the text of each token.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    content: str | None = None
    prompt: str | None = None
    add_special: bool = False
    with_pieces: bool = False


class DetokenizeRequest(BaseModel):
    """Token ids whose text is wanted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    tokens: list[int]
