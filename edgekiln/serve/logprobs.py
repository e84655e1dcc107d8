"""Log-probabilities of tokens, in the forms of chat and of text completions."""

from typing import Any

from edgekiln.runtimes.generate.answer import Token
from edgekiln.runtimes.text.tokenizer import Tokenizer

# JSON has no infinity; OpenAI's API states this for tokens that cannot occur.
_LEAST = -9999.0


def chat_logprob(tokenizer: Tokenizer, token: Token) -> dict[str, Any]:
    """An entry of `logprobs.content` of a chat completion."""
    entry = _entry(tokenizer, token.id, token.logprob)
    entry["top_logprobs"] = [_entry(tokenizer, id_, value) for id_, value in token.top_logprobs]
    return entry


def _entry(tokenizer: Tokenizer, token: int, value: float | None) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode(errors="replace"), "logprob": _finite(value), "bytes": list(data)}


def _finite(value: float | None) -> float:
    return _LEAST if value is None else max(value, _LEAST)


class CompletionLogprobs:
    """The `logprobs` of a text completion, whose entries have offsets in the text of the answer."""

    def __init__(self, tokenizer: Tokenizer, offset: int = 0) -> None:
        """Begin an answer whose first token is at character `offset`."""
        self._tokenizer = tokenizer
        self._offset = offset

    def entries(self, tokens: list[Token]) -> dict[str, Any]:
        """The object for further tokens."""
        result: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in tokens:
            text = self._text(token.id)
            result["tokens"].append(text)
            result["token_logprobs"].append(_finite(token.logprob))
            result["top_logprobs"].append({self._text(id_): _finite(value) for id_, value in token.top_logprobs})
            result["text_offset"].append(self._offset)
            self._offset += len(text)
        return result

    def _text(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode(errors="replace")
