"""/v1/completions: continue text."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edgekiln.runtimes.base import Ids, check_vocabulary
from edgekiln.runtimes.generate.answer import Token
from edgekiln.serve.answering import check_prompt, encode, finish_reason, new_id, now, usage
from edgekiln.serve.engines import LoadedEngine
from edgekiln.serve.errors import bad_request
from edgekiln.serve.generate_options import check_choices, generate_options
from edgekiln.serve.generation import Generation
from edgekiln.serve.json_body import parse, read_json
from edgekiln.serve.json_response import JsonResponse
from edgekiln.serve.logprobs import CompletionLogprobs
from edgekiln.serve.prompts import completion_prompts
from edgekiln.serve.schemas.completions import CompletionRequest
from edgekiln.serve.schemas.fields import COMPLETIONS, without_labels
from edgekiln.serve.sse import DONE, EventStream, event, limited
from edgekiln.serve.state import Server, request_log, server_of
from edgekiln.serve.structured import compile_form, response_form


async def completions(request: Request) -> Response:
    """Answer a request."""
    server = server_of(request)
    body = without_labels(await read_json(request, server.options), COMPLETIONS)
    fields = parse(CompletionRequest, body)
    _check(fields)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(server.engines.lease(fields.model))
        answers, generation = await _submit(server, stack, engine, fields, request)
        if fields.stream:
            events = _events(answers, generation, fields)
            return EventStream(server, stack.pop_all(), generation, events)
        async with limited(request.receive, generation, server.options.timeout_s):
            async for arrived in generation.arrivals():
                for index, token in arrived:
                    answers.choices[index].add(token)
        server.note_usage(request.scope, generation)
        choices = [choice.whole() for choice in answers.choices]
        return JsonResponse({**answers.head, "choices": choices, "usage": usage(generation)})


def _check(fields: CompletionRequest) -> None:
    if fields.best_of not in (None, fields.n):
        raise bad_request("best_of must be n: answers are not ranked", "best_of", "unsupported_parameter")
    if fields.echo and fields.logprobs is not None:
        message = "echo with logprobs is not supported: the prompt's log-probabilities are not computed"
        raise bad_request(message, "logprobs", "unsupported_parameter")
    if fields.stream_options is not None and not fields.stream:
        raise bad_request("stream_options goes with stream: true", "stream_options", "invalid_value")


class _Choice:
    """One answer, as it grows."""

    def __init__(self, index: int, echo: str, logprobs: CompletionLogprobs | None) -> None:
        self.index = index
        self._echo = echo
        self._logprobs = logprobs
        self._parts: list[str] = []
        self._tokens: list[Token] = []

    def add(self, token: Token) -> None:
        self._parts.append(token.text)
        self._tokens.append(token)

    def whole(self) -> dict[str, Any]:
        """The choice of a response that is not streamed."""
        return self._object(self._echo + "".join(self._parts), self._tokens)

    def first_part(self) -> dict[str, Any] | None:
        """The echoed prompt, which a stream begins with."""
        return self._object(self._echo, []) if self._echo else None

    def part(self, token: Token) -> dict[str, Any] | None:
        """The choice of a chunk; None if the token adds nothing."""
        if not token.text and token.finish_reason is None and self._logprobs is None:
            return None
        return self._object(token.text, [token])

    def _object(self, text: str, tokens: list[Token]) -> dict[str, Any]:
        reason = tokens[-1].finish_reason if tokens else None
        listed = [token for token in tokens if token.finish_reason != "eos"]
        logprobs = None if self._logprobs is None else self._logprobs.entries(listed)
        return {"index": self.index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason(reason)}


@dataclass
class _Answers:
    head: dict[str, Any]
    choices: list[_Choice]


async def _submit(
    server: Server, stack: AsyncExitStack, engine: LoadedEngine, fields: CompletionRequest, request: Request
) -> tuple[_Answers, Generation]:
    prompts = completion_prompts(fields.prompt)
    check_choices(len(prompts), fields.n, server.engines.most_answers)
    ids = [await _prompt_ids(engine, prompt) for prompt in prompts]
    form = response_form(fields.response_format, fields.grammar, fields.regex)
    options = generate_options(
        fields,
        engine,
        server.options,
        ("max_tokens", fields.max_tokens),
        prompt_tokens=max(map(len, ids)),
        n=fields.n,
        stop=fields.stop,
        ignore_eos=fields.ignore_eos,
        logprobs=fields.logprobs is not None,
        top_logprobs=fields.logprobs or 0,
        constraint=await compile_form(engine.tokenizer, form),
    )
    generation = await server.begin(stack, engine)
    request_log(request.scope)["model"] = engine.name
    if server.log.prompts:
        request_log(request.scope)["prompt"] = fields.prompt
    generation.submit(engine.scheduler, ids, options)
    choices: list[_Choice] = []
    for prompt, prompt_ids in zip(prompts, ids, strict=True):
        echo = (prompt if isinstance(prompt, str) else engine.tokenizer.decode(prompt_ids)) if fields.echo else ""
        for _ in range(fields.n):
            logprobs = None if fields.logprobs is None else CompletionLogprobs(engine.tokenizer)
            choices.append(_Choice(len(choices), echo, logprobs))
    head = {"id": new_id("cmpl-"), "object": "text_completion", "created": now(), "model": engine.name}
    return _Answers(head, choices), generation


async def _prompt_ids(engine: LoadedEngine, prompt: str | Ids) -> Ids:
    def ids() -> Ids:
        if isinstance(prompt, str):
            return engine.tokenizer.encode(prompt, max_tokens=engine.max_length)
        check_vocabulary(prompt, engine.runtime.properties.vocab_size)
        return prompt

    return check_prompt(await encode("prompt", len(prompt), ids), engine, "prompt")


async def _events(answers: _Answers, generation: Generation, fields: CompletionRequest) -> AsyncIterator[bytes]:
    include_usage = fields.stream_options is not None and fields.stream_options.include_usage
    rest = {"usage": None} if include_usage else {}
    echoed = [part for choice in answers.choices if (part := choice.first_part()) is not None]
    if echoed:
        yield b"".join(event({**answers.head, "choices": [part], **rest}) for part in echoed)
    async for arrived in generation.arrivals():
        parts = [part for index, token in arrived if (part := answers.choices[index].part(token)) is not None]
        if parts:
            yield b"".join(event({**answers.head, "choices": [part], **rest}) for part in parts)
    if include_usage:
        yield event({**answers.head, "choices": [], "usage": usage(generation)})
    yield DONE
