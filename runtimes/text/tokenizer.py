"""Tokenization of an engine's text with the `tokenizers` library, and its chat template."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from edgekiln.arguments import utf8
from edgekiln.engine.chat_templates import read_chat_templates
from edgekiln.engine.directory import TOKENIZER_FILE
from edgekiln.engine.manifest import LONGER_ENGINE, EngineManifest, SpecialTokens
from edgekiln.engine.schema import parse_json
from edgekiln.errors import EngineError, RequestError, one_line
from edgekiln.runtimes.base import Ids
from edgekiln.runtimes.text.chat_template import (
    ChatTemplate,
    NowFunction,
    check_messages,
    check_tools,
    check_variables,
    choose_template,
    render,
)
from edgekiln.runtimes.text.control_tokens import ControlTokens
from edgekiln.runtimes.text.decoder import Decoder
from edgekiln.runtimes.text.interruptible import interruptible
from edgekiln.runtimes.text.marked_text import MarkedText, given, given_message
from edgekiln.runtimes.text.stream import SpecialTokensChoice, StreamingDecoder
from edgekiln.runtimes.text.text_length import most_characters

# Longer texts take so long that Ctrl-C should be able to end it.
_LONG_TEXT = 50_000


class Tokenizer:
    """An engine's tokenizer. Decoded text never contains special tokens.

    Attributes:
        special_tokens: ids of the special tokens, as in engine.json.
        eos_ids: ids that end an answer.
        decoder: what turns token strings into text.
    """

    def __init__(
        self,
        tokenizer: FastTokenizer,
        special_tokens: SpecialTokens,
        chat_template: ChatTemplate | None = None,
        length_advice: str = LONGER_ENGINE,
    ) -> None:
        # tokenizer.json may contain truncation and padding settings of the training, which would alter prompts.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._length_advice = length_advice
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
        try:
            tokenizer = FastTokenizer.from_buffer(path.read_bytes())
            chat_template = read_chat_templates(Path(directory), manifest.files)
        except Exception as error:  # the library raises bare Exception
            parse_json(path.read_bytes(), path)
            raise EngineError(f"{path} cannot be read ({one_line(error)}): build the engine again") from error
        return cls(tokenizer, manifest.special_tokens, chat_template, manifest.architecture.length_advice)

    def encode(self, text: str, add_special_tokens: bool = True, max_tokens: int | None = None) -> Ids:
        """Token ids of a text.

        Args:
            text: may contain special tokens by name.
            add_special_tokens: also add those of the tokenizer's post-processor, usually bos.
            max_tokens: refuse a text that is certain to have more tokens, which is known before it is tokenized.

        Returns:
            int64[S].

        Raises:
            RequestError: the text is not a string, contains a lone surrogate, which has no UTF-8, or is too long.
            KeyboardInterrupt: at Ctrl-C, also while a long text is tokenized.
        """
        self._check_length(text, max_tokens)
        ids = _encode(self._tokenizer, text, add_special_tokens)
        return np.array(ids, dtype=np.int64)

    def plain_encoder(self) -> Callable[[str], list[int]]:
        """A function that encodes texts without special tokens of the post-processor, and does not keep this object."""
        return functools.partial(_encode, self._tokenizer, add_special_tokens=False)

    def _check_length(self, text: str, max_tokens: int | None) -> None:
        if max_tokens is None or not isinstance(text, str) or len(text) <= max(_LONG_TEXT, max_tokens):
            return
        if self._most_characters is not None and len(text) > self._most_characters * max_tokens:
            raise RequestError(
                f"prompt has {len(text)} characters, which are more than the {max_tokens} tokens the engine holds: "
                f"{self._length_advice}"
            )

    @functools.cached_property
    def _most_characters(self) -> int | None:
        return most_characters(self._tokenizer)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Text of token ids without special tokens; bytes that are not valid UTF-8 become U+FFFD."""
        return self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=True)

    @functools.cached_property
    def size(self) -> int:
        """One more than the highest id. The model may have further logits, which no token belongs to."""
        return max(self._tokenizer.get_vocab().values(), default=-1) + 1

    def token(self, token: int) -> str | None:
        """The string of an id in the vocabulary; None if it is not there."""
        return self._tokenizer.id_to_token(token)

    def token_id(self, text: str) -> int | None:
        """The id of a string of the vocabulary; None if it is not there."""
        return self._tokenizer.token_to_id(text)

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
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
        strftime_now: NowFunction | None = None,
    ) -> str:
        """Format messages as a prompt text.

        The text may contain control tokens that messages contain; `encode_chat` keeps them apart.

        Args:
            messages: dictionaries with `role` and `content`, as in transformers.
            add_generation_prompt: end with the header of the assistant's next message.
            tools: JSON schemas of functions that the model may call.
            template_variables: further variables of the template, e.g. `enable_thinking` or `documents`.
            chat_template: name of the template to use, where the engine has several.
            strftime_now: formats the current time, in place of the clock.

        Raises:
            RequestError: the engine has no such template, the template refuses the messages, or an argument is not of
                JSON's types.
            TemplateLimitError: the template takes too long or writes too much.
        """
        check_messages(messages)
        variables = self._variables(add_generation_prompt, tools, template_variables)
        if strftime_now is not None:
            variables["strftime_now"] = strftime_now
        template = self.chat_template(chat_template, tools)
        return render(template, {**variables, "messages": [dict(message) for message in messages]})

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
        parse_special: bool = False,
        max_tokens: int | None = None,
    ) -> Ids:
        """Token ids, int64[S], of messages in the chat template.

        Args:
            messages, add_generation_prompt, tools, template_variables, chat_template: as for `apply_chat_template`.
            parse_special: control tokens in the text of messages, tools and variables count as such, as in
                transformers. By default they are text, and only the template's own are control tokens.
            max_tokens: as for `encode`.

        Raises:
            RequestError: as for `apply_chat_template`, there are no messages, or they are too long.
        """
        check_messages(messages)
        if not messages:
            raise RequestError("the conversation is empty: give at least one message")
        if parse_special:
            text = self.apply_chat_template(
                messages,
                add_generation_prompt,
                tools=tools,
                template_variables=template_variables,
                chat_template=chat_template,
            )
            return self.encode(text, add_special_tokens=False, max_tokens=max_tokens)
        variables = self._variables(add_generation_prompt, given(tools), given(template_variables))
        variables["messages"] = [given_message(message) for message in messages]
        text = render(self.chat_template(chat_template, tools), variables, marks=True)
        self._check_length(text, max_tokens)
        assert isinstance(text, MarkedText)
        ids = self._control_tokens.encode(text, lambda tokenizer, part: _encode(tokenizer, part, False))
        return np.array(ids, dtype=np.int64)

    def chat_template(self, name: str | None = None, tools: object = None) -> str:
        """The source of the chat template with a name, or of the one that transformers would choose.

        Raises:
            RequestError: there is none.
        """
        if self._chat_template is None:
            raise RequestError("the engine has no chat template: give a plain prompt instead")
        return choose_template(self._chat_template, name, tools)

    def _variables(self, add_generation_prompt: bool, tools: Any, given_variables: Any) -> dict[str, Any]:
        """The variables of a template but `messages`: the special tokens' and those of the request."""
        check_tools(tools)
        check_variables({} if given_variables is None else given_variables)
        return {
            "documents": None,
            **self.special_tokens.template_variables,
            **(given_variables or {}),
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }

    @functools.cached_property
    def _control_tokens(self) -> ControlTokens:
        return ControlTokens(self._tokenizer, self._turn_marks)


def _encode(tokenizer: FastTokenizer, text: str, add_special_tokens: bool) -> list[int]:
    if not isinstance(text, str):
        raise RequestError(f"text must be a string, got {text!r:.60}")
    utf8(text)
    if len(text) > _LONG_TEXT:
        # Unlike encode, this releases the GIL.
        batch = interruptible(lambda: tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens))
        return list(batch[0].ids)
    return list(tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
