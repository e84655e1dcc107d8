"""The body of /v1/responses."""

from typing import Any

from pydantic import Field

from edgekiln.serve.schemas.sampling import SamplingFields, StreamOptions


class ResponsesRequest(SamplingFields):
    """A conversation to continue, in the notation of OpenAI's newer API.

    Attributes:
        input: text, or a list of items.
        instructions: a system message.
        tools, tool_choice, parallel_tool_calls: functions that the model may call.
        text: the format of the answer.
        reasoning: {"effort": ...}, a variable of chat templates that have it.
        max_output_tokens: tokens of the answer, at most.
        top_logprobs: not served, but 0.
    """

    input: Any
    instructions: str | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    text: Any = None
    reasoning: Any = None
    max_output_tokens: int | None = Field(None, ge=1, lt=2**31)
    top_logprobs: int | None = Field(None, ge=0, le=0)
    stream_options: StreamOptions | None = None
