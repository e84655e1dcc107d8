"""/v1/chat/completions: answer a conversation."""

from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edgekiln.serve.answering import new_id, now
from edgekiln.serve.chat_answer import ChatAnswer
from edgekiln.serve.chat_prompt import Conversation, conversation_prompt
from edgekiln.serve.chat_stream import chat_events, chat_usage
from edgekiln.serve.engines import LoadedEngine
from edgekiln.serve.errors import bad_request
from edgekiln.serve.generate_options import check_choices, generate_options
from edgekiln.serve.generation import Generation
from edgekiln.serve.json_body import parse, read_json
from edgekiln.serve.json_response import JsonResponse
from edgekiln.serve.messages import chat_messages
from edgekiln.serve.schemas.chat import ChatRequest
from edgekiln.serve.schemas.fields import CHAT, without_labels
from edgekiln.serve.sse import EventStream, limited
from edgekiln.serve.state import Server, request_log, server_of
from edgekiln.serve.structured import response_form
from edgekiln.serve.tool_choice import chat_tools


async def chat_completions(request: Request) -> Response:
    """Answer a request."""
    server = server_of(request)
    body = without_labels(await read_json(request, server.options), CHAT)
    fields = parse(ChatRequest, body)
    _check(fields)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(server.engines.lease(fields.model))
        generation, answers = await _submit(server, stack, engine, fields, request)
        head = {"id": new_id("chatcmpl-"), "created": now(), "model": engine.name}
        if fields.stream:
            include_usage = fields.stream_options is not None and fields.stream_options.include_usage
            events = chat_events(head, generation, answers, include_usage)
            return EventStream(server, stack.pop_all(), generation, events)
        async with limited(request.receive, generation, server.options.timeout_s):
            async for arrived in generation.arrivals():
                for index, token in arrived:
                    answers[index].add(token)
                    answers[index].note_logprob(token)
        server.note_usage(request.scope, generation)
        choices = [answer.choice() for answer in answers]
        return JsonResponse(
            {"object": "chat.completion", **head, "choices": choices, "usage": chat_usage(generation, answers)}
        )


def _check(fields: ChatRequest) -> None:
    if fields.top_logprobs and not fields.logprobs:
        raise bad_request("top_logprobs goes with logprobs: true", "top_logprobs", "invalid_value")
    if fields.stream_options is not None and not fields.stream:
        raise bad_request("stream_options goes with stream: true", "stream_options", "invalid_value")
    if fields.max_tokens is not None and fields.max_completion_tokens not in (None, fields.max_tokens):
        message = "max_tokens and max_completion_tokens differ: give one"
        raise bad_request(message, "max_completion_tokens", "invalid_value")


async def _submit(
    server: Server, stack: AsyncExitStack, engine: LoadedEngine, fields: ChatRequest, request: Request
) -> tuple[Generation, list[ChatAnswer]]:
    check_choices(1, fields.n, server.engines.most_answers)
    conversation = Conversation(
        chat_messages(fields.messages),
        chat_tools(fields.tools, fields.tool_choice, fields.parallel_tool_calls),
        fields.chat_template_kwargs or {},
        fields.reasoning_effort,
    )
    form = response_form(fields.response_format, fields.grammar, fields.regex)
    prepared = await conversation_prompt(engine, conversation, form)
    newer = fields.max_completion_tokens is not None
    options = generate_options(
        fields,
        engine,
        server.options,
        ("max_completion_tokens", fields.max_completion_tokens) if newer else ("max_tokens", fields.max_tokens),
        prompt_tokens=len(prepared.ids),
        n=fields.n,
        stop=fields.stop,
        ignore_eos=fields.ignore_eos,
        logprobs=fields.logprobs,
        top_logprobs=fields.top_logprobs or 0,
        constraint=prepared.constraint,
    )
    generation = await server.begin(stack, engine)
    note: dict[str, Any] = request_log(request.scope)
    note["model"] = engine.name
    if server.log.prompts:
        note["prompt"] = fields.messages
    generation.submit(engine.scheduler, [prepared.ids], options)
    return generation, [
        ChatAnswer(index, engine.tokenizer, prepared.parser(), fields.logprobs) for index in range(fields.n)
    ]
