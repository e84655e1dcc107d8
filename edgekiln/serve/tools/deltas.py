"""What an answer's text adds to a message, piece by piece."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ContentDelta:
    """Text of the message."""

    text: str


@dataclass(frozen=True)
class ReasoningDelta:
    """Text of the reasoning before the message."""

    text: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A part of a tool call.

    Attributes:
        index: of the call in the message.
        id: of the call; None except in its first part, as `name`.
        name: of the function.
        arguments: the next part of the JSON text of the arguments; often empty in the first part.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


Delta = ContentDelta | ReasoningDelta | ToolCallDelta
