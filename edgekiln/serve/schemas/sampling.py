"""The fields that say how answers are generated, which all routes share."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_CHOICES = 128
_MAX_STOPS, _MAX_STOP_LENGTH = 16, 1000
_MAX_BIASES = 1024


def _stop(value: object) -> object:
    return [value] if isinstance(value, str) else value


StopString = Annotated[str, Field(min_length=1, max_length=_MAX_STOP_LENGTH)]


class StreamOptions(BaseModel):
    """How a stream is sent.

    Attributes:
        include_usage: the last chunk counts the tokens.
        include_obfuscation: OpenAI's padding of chunks, which this server has not.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: Annotated[bool, Field(le=False)] = False


class SamplingFields(BaseModel):
    """How answers are generated. What is left out takes the engine's default.

    Attributes:
        model: name of an engine; by default the first.
        temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, seed: see
            `edgekiln.runtimes.sampling.sampler.SamplingOptions`.
        stream: send the answer as it is generated.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=1e6)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=1e6)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=_MAX_BIASES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stream: bool = False


class ChoiceFields(SamplingFields):
    """Fields of both chat and text completions.

    Attributes:
        n: answers.
        stop: strings before which an answer ends.
        max_tokens: tokens of an answer, at most.
        ignore_eos: continue after the token that ends an answer.
        stream_options: only with `stream`.
        response_format: text, JSON, or JSON of a schema.
        grammar: a grammar in Lark's notation that answers follow.
        regex: a regular expression that answers match.
    """

    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stop: Annotated[list[StopString], Field(max_length=_MAX_STOPS), BeforeValidator(_stop)] | None = None
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    ignore_eos: bool = False
    stream_options: StreamOptions | None = None
    response_format: Any = None
    grammar: str | None = Field(None, min_length=1, max_length=1 << 20)
    regex: str | None = Field(None, min_length=1, max_length=1 << 16)
