"""/v1/responses: answer a conversation, in the notation of OpenAI's newer API."""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edgekiln.runtimes.generate.answer import FinishReason, Token
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.serve.answer_parser import AnswerParser
from edgekiln.serve.answering import new_id, now
from edgekiln.serve.chat_prompt import Conversation, conversation_prompt
from edgekiln.serve.engines import LoadedEngine
from edgekiln.serve.errors import bad_request, unsupported
from edgekiln.serve.generate_options import generate_options
from edgekiln.serve.generation import Generation
from edgekiln.serve.json_body import parse, read_json
from edgekiln.serve.json_response import JsonResponse
from edgekiln.serve.responses_input import response_messages
from edgekiln.serve.responses_output import Event, ResponseOutput
from edgekiln.serve.schemas.fields import RESPONSES, without_labels
from edgekiln.serve.schemas.responses import ResponsesRequest
from edgekiln.serve.sse import EventStream, event, limited
from edgekiln.serve.state import Server, request_log, server_of
from edgekiln.serve.structured import Form, text_format
from edgekiln.serve.tool_choice import response_tools


async def responses(request: Request) -> Response:
    """Answer a request."""
    server = server_of(request)
    body = await read_json(request, server.options)
    fields = parse(ResponsesRequest, without_labels(body, RESPONSES))
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(server.engines.lease(fields.model))
        generation, answer = await _submit(server, stack, engine, fields, body, request)
        if fields.stream:
            return EventStream(server, stack.pop_all(), generation, answer.events(), named=True)
        async with limited(request.receive, generation, server.options.timeout_s):
            async for arrived in generation.arrivals():
                for _, token in arrived:
                    answer.add(token)
        server.note_usage(request.scope, generation)
        return JsonResponse(answer.end()["response"])


async def _submit(
    server: Server,
    stack: AsyncExitStack,
    engine: LoadedEngine,
    fields: ResponsesRequest,
    body: dict[str, Any],
    request: Request,
) -> tuple[Generation, "_Answer"]:
    conversation = Conversation(
        response_messages(fields.input, fields.instructions),
        response_tools(fields.tools, fields.tool_choice, fields.parallel_tool_calls),
        {},
        _effort(fields.reasoning),
        "input",
    )
    prepared = await conversation_prompt(engine, conversation, _form(fields.text))
    limit = ("max_output_tokens", fields.max_output_tokens)
    options = generate_options(
        fields, engine, server.options, limit, prompt_tokens=len(prepared.ids), constraint=prepared.constraint
    )
    generation = await server.begin(stack, engine)
    note = request_log(request.scope)
    note["model"] = engine.name
    if server.log.prompts:
        note["prompt"] = fields.input
    generation.submit(engine.scheduler, [prepared.ids], options)
    return generation, _Answer(_head(fields, body, engine, options[0]), generation, prepared.parser())


def _form(text: object) -> Form | None:
    if text is None:
        return None
    if not isinstance(text, dict):
        raise bad_request(f"text must be an object with format, got {text!r:.60}", "text", "invalid_value")
    for name, value in text.items():
        if name not in ("format", "verbosity") or (name == "verbosity" and value not in (None, "medium")):
            raise unsupported(f"text.{name:.60}", "say in the input how the answer should be")
    return None if text.get("format") is None else text_format(text["format"], "text.format")


def _effort(reasoning: object) -> str | None:
    if reasoning is None:
        return None
    if not isinstance(reasoning, dict):
        raise bad_request(f"reasoning must be an object, got {reasoning!r:.60}", "reasoning", "invalid_value")
    for name, value in reasoning.items():
        if name != "effort" and value is not None:
            raise unsupported(f"reasoning.{name:.60}", "engines reason as they do, leave it out")
    effort = reasoning.get("effort")
    if effort is not None and effort not in ("none", "minimal", "low", "medium", "high", "xhigh"):
        raise bad_request(f"reasoning.effort is not known: {effort!r:.60}", "reasoning.effort", "invalid_value")
    return effort


def _head(
    fields: ResponsesRequest, body: dict[str, Any], engine: LoadedEngine, options: GenerateOptions
) -> dict[str, Any]:
    """The fields of a response that tell the request."""
    return {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": now(),
        "model": engine.name,
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": fields.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": _effort(fields.reasoning), "summary": None},
        "store": False,
        "temperature": options.sampling.temperature,
        "text": {"format": (fields.text or {}).get("format") or {"type": "text"}},
        "tool_choice": fields.tool_choice or "auto",
        "tools": fields.tools or [],
        "top_p": options.sampling.top_p,
        "truncation": "disabled",
        "user": body.get("user"),
    }


@dataclasses.dataclass
class _Answer:
    """A response, as it grows."""

    head: dict[str, Any]
    generation: Generation
    parser: AnswerParser
    output: ResponseOutput = dataclasses.field(default_factory=ResponseOutput)
    reason: FinishReason | None = None

    def add(self, token: Token) -> list[Event]:
        """Add a token; returns the events."""
        added = self.parser.push(token.text)
        if token.finish_reason is not None:
            self.reason = token.finish_reason
            added += self.parser.finish()
        return [each for delta in added for each in self.output.push(delta)]

    def response(self, status: str) -> dict[str, Any]:
        """The response as it is now."""
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        usage = None if status == "in_progress" else _usage(self.generation, self.parser.reasoning_tokens)
        rest = {"status": status, "error": None, "incomplete_details": cut, "output": self.output.items}
        return {**self.head, **rest, "usage": usage}

    def end(self) -> Event:
        """The last event, after all tokens; close the output before."""
        status = "incomplete" if self.reason == "length" else "completed"
        self.output.close(status)
        return {"type": f"response.{status}", "response": self.response(status)}

    async def events(self) -> AsyncIterator[bytes]:
        """The events of a stream."""
        number = 0

        def encoded(events: list[Event]) -> bytes:
            nonlocal number
            data = []
            for each in events:
                data.append(event({**each, "sequence_number": number}, each["type"]))
                number += 1
            return b"".join(data)

        begin = self.response("in_progress")
        kinds = ("response.created", "response.in_progress")
        yield encoded([{"type": kind, "response": begin} for kind in kinds])
        async for arrived in self.generation.arrivals():
            if data := encoded([each for _, token in arrived for each in self.add(token)]):
                yield data
        status = "incomplete" if self.reason == "length" else "completed"
        closing = self.output.close(status)
        yield encoded([*closing, self.end()])


def _usage(generation: Generation, reasoning_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": generation.prompt_tokens,
        "input_tokens_details": {"cached_tokens": generation.cached_tokens},
        "output_tokens": generation.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
    }
