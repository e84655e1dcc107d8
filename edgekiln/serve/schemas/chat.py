"""The body of /v1/chat/completions."""

from typing import Any, Literal

from pydantic import Field

from edgekiln.serve.schemas.sampling import ChoiceFields


class ChatRequest(ChoiceFields):
    """A conversation to continue.

    Attributes:
        messages: see `edgekiln.serve.messages`.
        tools, tool_choice, parallel_tool_calls: functions that the model may call.
        logprobs, top_logprobs: log-probabilities of the answer's tokens, and of the likeliest at their places.
        max_completion_tokens: the newer name of `max_tokens`.
        chat_template_kwargs: further variables of the chat template, such as {"enable_thinking": false}.
        reasoning_effort: a variable of chat templates that have it.
    """

    messages: Any
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
