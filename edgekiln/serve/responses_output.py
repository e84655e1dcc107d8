"""The output of /v1/responses: items that grow, and the events that say how."""

from typing import Any

from edgekiln.serve.answering import new_id
from edgekiln.serve.tools.deltas import Delta, ReasoningDelta, ToolCallDelta

Event = dict[str, Any]


class ResponseOutput:
    """The items of a response: reasoning, messages and function calls, in the order in which they begin.

    Attributes:
        items: so far.
    """

    def __init__(self) -> None:
        """Begin without items."""
        self.items: list[dict[str, Any]] = []
        self._open: str | None = None  # kind of the last item while it grows

    def push(self, delta: Delta) -> list[Event]:
        """Add a part of the answer; returns the events, but for their sequence numbers."""
        kind, text = _kind_and_text(delta)
        events: list[Event] = []
        if kind != self._open or (isinstance(delta, ToolCallDelta) and delta.name is not None):
            events += self.close()
            events += self._begin(kind, delta)
        if text:
            events.append(self._grow(text))
        return events

    def _begin(self, kind: str, delta: Delta) -> list[Event]:
        self._open = kind
        item: dict[str, Any]
        if isinstance(delta, ToolCallDelta):
            item = {"id": new_id("fc_"), "type": "function_call", "status": "in_progress"}
            item |= {"call_id": delta.id, "name": delta.name, "arguments": ""}
        elif isinstance(delta, ReasoningDelta):
            item = {"id": new_id("rs_"), "type": "reasoning", "status": "in_progress", "summary": [], "content": []}
        else:
            item = {"id": new_id("msg_"), "type": "message", "status": "in_progress", "role": "assistant"}
            item["content"] = []
        self.items.append(item)
        events = [self._event("response.output_item.added", item=_copy(item))]
        if kind != "call":
            item["content"].append(_content(kind, ""))
            events.append(self._event("response.content_part.added", content_index=0, part=_content(kind, "")))
        return events

    def _grow(self, text: str) -> Event:
        item = self.items[-1]
        if self._open == "call":
            item["arguments"] += text
            return self._event("response.function_call_arguments.delta", delta=text)
        item["content"][0]["text"] += text
        if self._open == "reasoning":
            return self._event("response.reasoning_text.delta", content_index=0, delta=text)
        return self._event("response.output_text.delta", content_index=0, delta=text, logprobs=[])

    def close(self, status: str = "completed") -> list[Event]:
        """End the item that grows; returns the events."""
        if self._open is None:
            return []
        item = self.items[-1]
        item["status"] = status
        events = []
        if self._open == "call":
            events.append(
                self._event("response.function_call_arguments.done", name=item["name"], arguments=item["arguments"])
            )
        else:
            text = item["content"][0]["text"]
            if self._open == "reasoning":
                events.append(self._event("response.reasoning_text.done", content_index=0, text=text))
            else:
                events.append(self._event("response.output_text.done", content_index=0, text=text, logprobs=[]))
            part = _content(self._open, text)
            events.append(self._event("response.content_part.done", content_index=0, part=part))
        events.append(self._event("response.output_item.done", item=_copy(item)))
        self._open = None
        return events

    def _event(self, kind: str, **fields: Any) -> Event:
        event: Event = {"type": kind, "output_index": len(self.items) - 1}
        if "item" not in fields:
            event["item_id"] = self.items[-1]["id"]
        return event | fields


def _kind_and_text(delta: Delta) -> tuple[str, str]:
    if isinstance(delta, ToolCallDelta):
        return "call", delta.arguments
    return ("reasoning" if isinstance(delta, ReasoningDelta) else "content"), delta.text


def _content(kind: str, text: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    """An item as it is now."""
    copy = dict(item)
    if "content" in item:
        copy["content"] = [dict(part) for part in item["content"]]
    return copy
