"""What chat, text completions and responses have in common: ids, usage, finish reasons, and prompts."""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Ids
from edgekiln.runtimes.generate.answer import FinishReason
from edgekiln.serve.engines import LoadedEngine
from edgekiln.serve.errors import ApiError
from edgekiln.serve.generation import Generation

# Longer texts are tokenized in another thread, so that streams go on.
_LONG_TEXT = 4000

_Result = TypeVar("_Result")


def new_id(prefix: str) -> str:
    """An id such as `chatcmpl-...`, which no other answer has."""
    return f"{prefix}{secrets.token_hex(12)}"


def now() -> int:
    """Unix time in seconds."""
    return int(time.time())


def finish_reason(reason: FinishReason | None) -> str | None:
    """Why an answer ended, in OpenAI's words."""
    return "stop" if reason == "eos" else reason


def usage(generation: Generation, reasoning_tokens: int = 0) -> dict[str, Any]:
    """The tokens of a request, as the two completions APIs count them."""
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


async def encode(param: str, size: int, function: Callable[[], _Result]) -> _Result:
    """The result of a function that tokenizes `size` characters.

    Raises:
        ApiError: 400 with `param`, where the function raises RequestError.
    """
    try:
        return await asyncio.to_thread(function) if size > _LONG_TEXT else function()
    except RequestError as error:
        raise ApiError(400, str(error), param, "invalid_value") from error


def check_prompt(prompt: Ids, engine: LoadedEngine, param: str) -> Ids:
    """A prompt that leaves room for an answer.

    Raises:
        ApiError: it is empty, or too long.
    """
    if not len(prompt):
        raise ApiError(400, "the prompt is empty: give some text", param, "invalid_value")
    if len(prompt) >= engine.max_length:
        raise ApiError(
            400,
            f"the prompt has {len(prompt)} tokens, the limit is {engine.max_length} with the answer: shorten it",
            param,
            "context_length_exceeded",
        )
    return prompt
