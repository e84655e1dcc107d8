"""The routes that generate nothing: models, tokens, health, metrics."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edgekiln.runtimes.base import check_vocabulary
from edgekiln.serve.answering import encode
from edgekiln.serve.errors import bad_request
from edgekiln.serve.json_body import parse, read_json
from edgekiln.serve.json_response import JsonResponse
from edgekiln.serve.prompts import completion_prompts
from edgekiln.serve.schemas.completions import DetokenizeRequest, TokenizeRequest
from edgekiln.serve.state import server_of


async def models(request: Request) -> Response:
    """/v1/models: the engines."""
    engines = server_of(request).engines
    return JsonResponse({"object": "list", "data": [_model(request, name) for name, _ in engines.models()]})


async def model(request: Request) -> Response:
    """/v1/models/NAME: one engine."""
    return JsonResponse(_model(request, request.path_params["name"]))


def _model(request: Request, name: str) -> dict[str, Any]:
    engines = server_of(request).engines
    max_length = engines.max_length(name)
    return {
        "id": name,
        "object": "model",
        "created": dict(engines.models())[name],
        "owned_by": "edgekiln",
        "max_model_len": max_length,
        "loaded": engines.is_loaded(name),
    }


async def embeddings(request: Request) -> Response:
    """/v1/embeddings: there are no engines for it yet."""
    await read_json(request, server_of(request).options)
    message = "engines of embedding models do not exist yet: this server generates text only"
    raise bad_request(message, "model", "unsupported_model")


async def tokenize(request: Request) -> Response:
    """/tokenize: the token ids of a text."""
    server = server_of(request)
    fields = parse(TokenizeRequest, await read_json(request, server.options))
    text = fields.content if fields.content is not None else fields.prompt
    if text is None or None not in (fields.content, fields.prompt):
        raise bad_request("give the text as content", "content", "missing_required_parameter")
    async with server.engines.lease(fields.model) as engine:
        ids = await encode("content", len(text), lambda: engine.tokenizer.encode(text, fields.add_special))
        tokens: list[Any] = ids.tolist()
        result: dict[str, Any] = {"tokens": tokens, "count": len(tokens), "max_model_len": engine.max_length}
        if fields.with_pieces:
            pieces = [engine.tokenizer.token_bytes(token).decode(errors="replace") for token in tokens]
            result["tokens"] = [{"id": token, "piece": piece} for token, piece in zip(tokens, pieces, strict=True)]
    return JsonResponse(result)


async def detokenize(request: Request) -> Response:
    """/detokenize: the text of token ids, without special tokens."""
    server = server_of(request)
    fields = parse(DetokenizeRequest, await read_json(request, server.options))
    async with server.engines.lease(fields.model) as engine:
        if not fields.tokens:
            return JsonResponse({"content": ""})
        (ids,) = completion_prompts(fields.tokens)

        def text() -> str:
            assert not isinstance(ids, str)
            check_vocabulary(ids, engine.runtime.properties.vocab_size)
            return engine.tokenizer.decode(ids)

        return JsonResponse({"content": await encode("tokens", len(ids), text)})


async def health(request: Request) -> Response:
    """/health: 200 while requests are taken, 503 at a shutdown."""
    server = server_of(request)
    if server.draining:
        return JsonResponse({"status": "shutting down"}, 503)
    stats = server.engines.stats()
    running, waiting = sum(each.running for _, each in stats), sum(each.waiting for _, each in stats)
    return JsonResponse({"status": "ok", "running": running, "waiting": waiting})


async def metrics(request: Request) -> Response:
    """/metrics: for Prometheus."""
    return Response(server_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
