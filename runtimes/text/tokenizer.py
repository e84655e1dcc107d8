"""Tokenization of an engine's text with the `tokenizers` library, and its chat template."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from edgekiln.engine.directory import CHAT_TEMPLATE_FILE, TOKENIZER_FILE
from edgekiln.engine.manifest import EngineManifest, SpecialTokens
from edgekiln.errors import EngineError, RequestError
from edgekiln.runtimes.base import Ids
from edgekiln.runtimes.text.decoder import Decoder
from edgekiln.runtimes.text.stream import SpecialTokensChoice, StreamingDecoder


class Tokenizer:
    """An engine's tokenizer. Decoded text never contains special tokens.

    Attributes:
        special_tokens: ids of the special tokens, as in engine.json.
        eos_ids: ids that end an answer.
        decoder: what turns token strings into text.
    """

    def __init__(
        self, tokenizer: FastTokenizer, special_tokens: SpecialTokens, chat_template: str | None = None
    ) -> None:
        # tokenizer.json may contain truncation and padding settings of the training, which would alter prompts.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        special = {token: added for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
        self._special = special.keys()
        self._special_texts = {added.content for added in special.values()}
        self.special_tokens = special_tokens
        self.eos_ids = frozenset(special_tokens.eos)
        self._turn_marks = self.eos_ids | {
            token for token in (special_tokens.bos, special_tokens.pad) if token is not None
        }
        self.decoder = Decoder(tokenizer.decoder)

    @classmethod
    def from_engine(cls, directory: str | Path, manifest: EngineManifest) -> "Tokenizer":
        """Load the tokenizer of an engine directory.

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
        """Token ids of a text.

        Args:
            text: may contain special tokens by name.
            add_special_tokens: also add those of the tokenizer's post-processor, usually bos.

        Returns:
            int64[S].

        Raises:
            RequestError: the text is not a string, or contains a lone surrogate, which has no UTF-8.
        """
        try:
            ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError as error:
            raise RequestError(f"text must be a string without lone surrogates, got {text!r:.60}") from error
        return np.array(ids, dtype=np.int64)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Text of token ids without special tokens; bytes that are not valid UTF-8 become U+FFFD."""
        return self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=True)

    def token(self, token: int) -> str | None:
        """The string of an id in the vocabulary; None if it is not there."""
        return self._tokenizer.id_to_token(token)

    def is_special(self, token: int) -> bool:
        """Whether an id is left out by `decode`, because it is a special token."""
        return self.token(token) in self._special_texts

    def token_bytes(self, token: int) -> bytes:
        """UTF-8 that an id adds to a text between others, special tokens included; parts of characters are possible."""
        text = self.token(token)
        return b"" if text is None else self.decoder.token_bytes(text)

    def has_text(self, token: int) -> bool:
        """Whether an id adds to decoded text. Special tokens and ids that are not in the vocabulary do not."""
        return token not in self._special and self._tokenizer.id_to_token(token) is not None

    def stream(
        self, special_tokens: SpecialTokensChoice = "hide", hidden: frozenset[int] = frozenset()
    ) -> StreamingDecoder:
        """A decoder for token ids that arrive one at a time.

        Args:
            special_tokens: "hide" leaves out special tokens, as `decode` does; "auto" only bos, eos and pad; "show"
                none.
            hidden: further ids to leave out.
        """
        if special_tokens == "auto":
            hidden |= self._turn_marks
        return StreamingDecoder(self, special_tokens, hidden)

    @property
    def has_chat_template(self) -> bool:
        """Whether `apply_chat_template` can be used."""
        return self._chat_template is not None

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Format messages as a prompt text. Encode it with `add_special_tokens=False`.

        Args:
            messages: dictionaries with `role` and `content`, as in transformers.
            add_generation_prompt: end with the header of the assistant's next message.
            variables: further variables of the template, e.g. `tools` or `enable_thinking`.

        Raises:
            RequestError: the engine has no template, or the template refuses the messages.
        """
        if self._chat_template is None:
            raise RequestError("the engine has no chat template: give a plain prompt instead")
        # Importing Jinja2 takes 0.1 s, which plain prompts need not pay.
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
        """Token ids, int64[S], of `apply_chat_template`.

        Raises:
            RequestError: as for `apply_chat_template`, or there are no messages.
        """
        if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
            raise RequestError(f"messages must be a list of dictionaries with role and content, got {messages!r:.60}")
        if not messages:
            raise RequestError("the conversation is empty: give at least one message")
        return self.encode(self.apply_chat_template(messages, **variables), add_special_tokens=False)

    def _special_token_texts(self) -> dict[str, str]:
        eos = self.special_tokens.eos[0] if self.special_tokens.eos else None
        ids = {"bos_token": self.special_tokens.bos, "eos_token": eos, "pad_token": self.special_tokens.pad}
        texts = {name: self._tokenizer.id_to_token(token) for name, token in ids.items() if token is not None}
        return {name: text for name, text in texts.items() if text is not None}
