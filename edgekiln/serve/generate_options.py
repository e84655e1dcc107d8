"""The options of the scheduler that a request asks for."""

from dataclasses import replace

from edgekiln.errors import RequestError
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.sampling.constraint import Constraint
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.serve.engines import LoadedEngine
from edgekiln.serve.errors import ApiError, bad_request
from edgekiln.serve.options import ServeOptions
from edgekiln.serve.schemas.sampling import SamplingFields

_SEED_STEP = 0x9E3779B97F4A7C15  # odd, so that the seeds of a request's answers differ
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def generate_options(
    fields: SamplingFields,
    engine: LoadedEngine,
    server: ServeOptions,
    max_tokens: tuple[str, int | None],
    *,
    prompt_tokens: int,
    n: int = 1,
    stop: list[str] | None = None,
    ignore_eos: bool = False,
    logprobs: bool = False,
    top_logprobs: int = 0,
    constraint: Constraint | None = None,
) -> list[GenerateOptions]:
    """The options of the `n` answers to a prompt.

    Args:
        fields: of the request.
        engine: the engine, whose sampling defaults apply.
        server: the operator's choices.
        max_tokens: name and value of the field that limits the tokens of an answer.
        prompt_tokens: tokens of the longest prompt.
        n, stop, ignore_eos, logprobs, top_logprobs, constraint: of each answer.

    Raises:
        ApiError: a value is out of range.
    """
    name, most = max_tokens
    if most is None:
        most = max(1, engine.most_tokens - prompt_tokens)
        most = min(most, server.max_tokens or most)
    elif server.max_tokens is not None and most > server.max_tokens:
        raise bad_request(f"{name} is {most}, over the server's limit of {server.max_tokens}", name, "invalid_value")
    chosen = {field: getattr(fields, field) for field in _SAMPLING}
    try:
        sampling = SamplingOptions.from_defaults(
            engine.engine.manifest.sampling, **chosen, logit_bias=_logit_bias(fields, engine)
        )
        options = GenerateOptions(
            max_tokens=most,
            sampling=sampling,
            stop=tuple(stop or ()),
            ignore_eos=ignore_eos,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            constraint=constraint,
        )
    except RequestError as error:
        field = str(error).partition(" ")[0]
        raise ApiError(
            400, str(error), field if field in type(fields).model_fields else None, "invalid_value"
        ) from error
    if fields.seed is None:
        return [options] * n
    return [
        replace(options, sampling=replace(sampling, seed=(fields.seed + index * _SEED_STEP) % 2**64))
        for index in range(n)
    ]


def _logit_bias(fields: SamplingFields, engine: LoadedEngine) -> dict[int, float] | None:
    if not fields.logit_bias:
        return None
    biases = {}
    for key, value in fields.logit_bias.items():
        if not key.isascii() or not key.isdigit() or int(key[:20]) >= engine.runtime.properties.vocab_size:
            size = engine.runtime.properties.vocab_size
            message = f"logit_bias must have token ids in [0, {size}) as keys, got {key!r:.40}"
            raise bad_request(message, "logit_bias", "invalid_value")
        biases[int(key)] = value
    return biases


def check_choices(prompts: int, n: int, most: int) -> None:
    """Raise ApiError if a request has more answers than the queue of the server ever takes."""
    if prompts * n > most:
        message = f"the request has {prompts * n} answers, over the {most} that this server takes at a time"
        raise bad_request(message, "n" if n > 1 else "prompt", "invalid_value")
