"""A tokenizer's vocabulary in the form of llguidance: the bytes of each token, and the tokens of a forced text."""

import functools
from typing import TYPE_CHECKING, Any

from edgekiln.extras import requires_extra
from edgekiln.runtimes.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# In front of a text it keeps tokenizers from adding a space, and it merges with no other character.
_SENTINEL = "\x02"


def vocabulary_of(tokenizer: Tokenizer) -> "LLTokenizer":
    """The vocabulary of a tokenizer, for any number of grammars. Takes about a second at 150,000 tokens.

    Raises:
        EdgekilnError: llguidance is not installed.
    """
    with requires_extra("grammar"):
        from llguidance import LLTokenizer
    vocabulary: Any = _Vocabulary(tokenizer)
    return LLTokenizer(vocabulary, eos_token=sorted(tokenizer.eos_ids) or None)


class _Vocabulary:
    """What llguidance's `TokenizerWrapper` has. Texts are those that `Tokenizer.token_bytes` gives, as in answers."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.size)]
        # Never matched as text: llguidance puts a byte in front of them that no text has.
        special = {*filter(tokenizer.is_special, range(tokenizer.size)), *tokenizer.eos_ids}
        special |= {
            token for token in (tokenizer.special_tokens.bos, tokenizer.special_tokens.pad) if token is not None
        }
        self.special_token_ids = sorted(special)
        self.eos_token_id = min(tokenizer.eos_ids, default=None)
        self._special = frozenset(special)
        self._encode = tokenizer.plain_encoder()

    def __call__(self, text: str) -> list[int]:
        """Tokens of a text that a grammar forces; their bytes are exactly those of the text."""
        wanted = text.encode()
        for prefix in ("", _SENTINEL):
            ids = self._after(self._encode(prefix + text), prefix.encode())
            if self._special.isdisjoint(ids) and b"".join(self.tokens[token] for token in ids) == wanted:
                return ids
        return self._longest(wanted)

    def _after(self, ids: list[int], prefix: bytes) -> list[int]:
        """The tokens after those that end in `prefix`."""
        before = b""
        for count, token in enumerate(ids):
            if before.endswith(prefix):
                return ids[count:]
            before += self.tokens[token]
        return []

    def _longest(self, text: bytes) -> list[int]:
        """The longest token that fits, again and again; ends where none does."""
        ids: list[int] = []
        while text:
            size = next((size for size in range(len(text), 0, -1) if text[:size] in self._ids), 0)
            if not size:
                break
            ids.append(self._ids[text[:size]])
            text = text[size:]
        return ids

    @functools.cached_property
    def _ids(self) -> dict[bytes, int]:
        return {text: token for token, text in enumerate(self.tokens) if token not in self._special}
