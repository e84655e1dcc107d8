"""The chunks of a streamed chat completion."""

from collections.abc import AsyncIterator, Mapping, Sequence
from json.encoder import encode_basestring
from typing import Any

from edgekiln.runtimes.generate.answer import Token
from edgekiln.serve.answering import usage
from edgekiln.serve.chat_answer import ChatAnswer
from edgekiln.serve.generation import Generation
from edgekiln.serve.sse import DONE, to_json
from edgekiln.serve.tools.deltas import ContentDelta, Delta, ReasoningDelta


async def chat_events(
    head: Mapping[str, Any], generation: Generation, answers: Sequence[ChatAnswer], include_usage: bool
) -> AsyncIterator[bytes]:
    """The events of a stream: the chunks of tokens that arrived together come together.

    Args:
        head: id, time and model.
        generation: the answers as they arrive.
        answers: one for each choice.
        include_usage: end with a chunk that counts the tokens.
    """
    chunks = _Chunks(head, include_usage)
    yield b"".join(chunks.delta(answer.index, {"role": "assistant", "content": ""}) for answer in answers)
    async for arrived in generation.arrivals():
        data = b"".join([chunks.token(answers[index], token) for index, token in arrived])
        if data:
            yield data
    if include_usage:
        yield chunks.usage(chat_usage(generation, answers))
    yield DONE


def chat_usage(generation: Generation, answers: Sequence[ChatAnswer]) -> dict[str, Any]:
    """The tokens of a request."""
    return usage(generation, sum(answer.reasoning_tokens for answer in answers))


class _Chunks:
    """Writes chunks; what is the same in all of them is encoded once, and text without building objects."""

    def __init__(self, head: Mapping[str, Any], include_usage: bool) -> None:
        self._head = f"data: {to_json({'object': 'chat.completion.chunk', **head})[:-1]}"
        self._end = ',"usage":null}\n\n' if include_usage else "}\n\n"
        self._text_end = '},"logprobs":null,"finish_reason":null}]' + self._end

    def token(self, answer: ChatAnswer, token: Token) -> bytes:
        """What a token adds."""
        deltas = answer.add(token)
        if not answer.logprobs and token.finish_reason is None and len(deltas) == 1:
            (delta,) = deltas
            if isinstance(delta, ContentDelta):
                return self._text(answer.index, delta.text)
        entry = answer.logprob(token)
        logprobs = None if entry is None else {"content": [entry], "refusal": None}
        fields = [_fields(delta) for delta in deltas] or ([{"content": ""}] if logprobs else [])
        chunks = [
            self.delta(answer.index, each, logprobs if number == 0 else None) for number, each in enumerate(fields)
        ]
        if answer.finish_reason is not None:
            chunks.append(self.delta(answer.index, {}, None, answer.finish_reason))
        return b"".join(chunks)

    def _text(self, index: int, text: str) -> bytes:
        start = f'{self._head},"choices":[{{"index":{index},"delta":{{"content":'
        return (start + encode_basestring(text) + self._text_end).encode()

    def delta(
        self,
        index: int,
        delta: Mapping[str, Any],
        logprobs: Mapping[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        """A chunk with any change of a choice."""
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return f'{self._head},"choices":[{to_json(choice)}]{self._end}'.encode()

    def usage(self, counts: Mapping[str, Any]) -> bytes:
        """The chunk that counts the tokens."""
        return f'{self._head},"choices":[],"usage":{to_json(counts)}}}\n\n'.encode()


def _fields(delta: Delta) -> dict[str, Any]:
    if isinstance(delta, ContentDelta):
        return {"content": delta.text}
    if isinstance(delta, ReasoningDelta):
        return {"reasoning_content": delta.text}
    call: dict[str, Any] = {"index": delta.index}
    if delta.name is None:
        return {"tool_calls": [{**call, "function": {"arguments": delta.arguments}}]}
    function = {"name": delta.name, "arguments": delta.arguments}
    return {"tool_calls": [{**call, "id": delta.id, "type": "function", "function": function}]}
