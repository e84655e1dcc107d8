"""Text to token ids and back: the `tokenizers` library, streaming decoding and chat templates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from edgekiln.engine.directory import CHAT_TEMPLATE_FILE, TOKENIZER_FILE
from edgekiln.engine.manifest import EngineManifest, SpecialTokens
from edgekiln.errors import EngineError, RequestError
from edgekiln.runtimes.base import Ids

REPLACEMENT = "\ufffd"
# A character is at most four bytes, so at most three tokens can wait for the rest of one.
LONGEST_WAIT = 3


class Tokenizer:
    """An engine's tokenizer; special tokens never show in decoded text."""

    def __init__(self, tokenizer: FastTokenizer, tokens: SpecialTokens, chat_template: str | None = None) -> None:
        # A checkpoint's training-time settings: they would cut prompts short or fill them up in silence.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._special = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
        self.tokens = tokens
        self.eos_ids = frozenset(tokens.eos)

    @classmethod
    def from_engine(cls, directory: str | Path, manifest: EngineManifest) -> "Tokenizer":
        """The tokenizer of an engine directory.

        Raises:
            EngineError: tokenizer.json is missing or damaged.
        """
        path = Path(directory) / TOKENIZER_FILE
        template = Path(directory) / CHAT_TEMPLATE_FILE
        try:
            tokenizer = FastTokenizer.from_file(str(path))
            chat_template = template.read_text(encoding="utf-8") if template.is_file() else None
        except Exception as error:  # the library raises bare Exception
            raise EngineError(f"{path} cannot be read ({error}): build the engine again") from error
        return cls(tokenizer, manifest.special_tokens, chat_template)

    def encode(self, text: str, add_special_tokens: bool = True) -> Ids:
        """int64[S] ids of `text`; with what the tokenizer's post-processor adds (bos, in most), unless told not to."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids, dtype=np.int64)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Text of the ids, without special tokens; bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=True)

    def has_text(self, token: int) -> bool:
        """Whether the id shows in decoded text: special tokens and ids without a token never do."""
        return token not in self._special and self._tokenizer.id_to_token(token) is not None

    def stream(self) -> "StreamingDecoder":
        """A decoder for ids that come one by one."""
        return StreamingDecoder(self)

    @property
    def has_chat_template(self) -> bool:
        """Whether the engine can format messages."""
        return self._chat_template is not None

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The prompt text of a conversation; encode it with `add_special_tokens=False`.

        Args:
            messages: each with `role` and `content`, as in transformers.
            add_generation_prompt: end with the beginning of the assistant's answer.
            variables: what else the template reads, say `tools` or `enable_thinking`.

        Raises:
            RequestError: the engine has no template, or the template refuses the messages.
        """
        if self._chat_template is None:
            raise RequestError("the engine has no chat template: give a plain prompt instead")
        # Jinja2 takes a tenth of a second to import, and plain prompts do without.
        from edgekiln.runtimes.text.chat_template import render

        variables = {
            "tools": None,
            "documents": None,
            **self._special_token_texts(),
            "add_generation_prompt": add_generation_prompt,
            **variables,
        }
        return render(self._chat_template, messages=[dict(message) for message in messages], **variables)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> Ids:
        """int64[S] ids of a conversation up to the assistant's next answer; see `apply_chat_template`."""
        return self.encode(self.apply_chat_template(messages, **variables), add_special_tokens=False)

    def _special_token_texts(self) -> dict[str, str]:
        eos = self.tokens.eos[0] if self.tokens.eos else None
        ids = {"bos_token": self.tokens.bos, "eos_token": eos, "pad_token": self.tokens.pad}
        texts = {name: self._tokenizer.id_to_token(token) for name, token in ids.items() if token is not None}
        return {name: text for name, text in texts.items() if text is not None}


class StreamingDecoder:
    """Text of ids that come one by one, never splitting a character; all pieces together are `decode` of all ids.

    Decoding a token alone loses the spaces SentencePiece puts before words, so the tokens of the last piece are decoded
    again in front of the new ones and their text is cut off. Only those are: the cost a token is constant.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._given = 0  # tokens at the window's start whose text has been given
        self._given_text = ""  # what they decode to

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character lacks bytes."""
        if not self._tokenizer.has_text(token):
            return ""
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        unfinished = len(text) - len(text.rstrip(REPLACEMENT))
        if not unfinished:
            return self._give(len(self._window), text)
        if min(unfinished, len(self._window) - self._given) > 2 * LONGEST_WAIT:
            # Bytes of no character: waiting for more would decode all of them again and again. The last tokens may yet
            # be the beginning of one.
            stable = len(self._window) - LONGEST_WAIT
            return self._give(stable, self._tokenizer.decode(self._window[:stable]))
        return ""

    def flush(self) -> str:
        """What is left at the end; an unfinished character becomes U+FFFD."""
        return self._give(len(self._window), self._tokenizer.decode(self._window))

    def _give(self, count: int, text: str) -> str:
        """The new part of `text`, which the first `count` tokens of the window decode to."""
        piece = text[len(self._given_text) :]
        if not piece:
            return ""
        self._window = self._window[self._given :]
        self._given = count - self._given
        self._given_text = self._tokenizer.decode(self._window[: self._given])
        return piece
