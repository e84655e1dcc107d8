"""Rules of grammars in llguidance's syntax."""

import json
from collections.abc import Mapping
from typing import Any

from edgekiln.runtimes.grammar.closed_objects import closed
from edgekiln.runtimes.grammar.compile import guidance_options
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.serve.tools.reasoning import ReasoningTags


class Rules:
    """The rules of a grammar as they are made."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Begin without rules; texts that are special tokens of `tokenizer` are written as such."""
        self._tokenizer = tokenizer
        self._rules: list[str] = []

    def add(self, name: str, body: str) -> str:
        """Add a rule; returns its name."""
        self._rules.append(f"{name}: {body}")
        return name.split("[", maxsplit=1)[0]

    def text(self) -> str:
        """The grammar."""
        return "\n".join(self._rules)

    def literal(self, text: str) -> str:
        """A text as it is, or the special token that it is."""
        token = self._tokenizer.token_id(text)
        special = token is not None and (self._tokenizer.is_special(token) or token in self._tokenizer.eos_ids)
        return f"<[{token}]>" if special else quoted(text)

    def reasoning(self, tags: ReasoningTags, inside: bool) -> str:
        """Reasoning and the white space after it."""
        self.text_up_to("thought", tags.close)
        self.add("space", r"/[ \n]{0,4}/")
        return "thought space " if inside else f"({self.literal(tags.open)} thought space)? "

    def text_up_to(self, name: str, end: str) -> str:
        """The rule of any text and the first `end` in it."""
        if self.literal(end) == quoted(end):
            return self.add(f"{name}[lazy]", rf"/(?s:.*){escaped(end)}/")
        return self.add(name, f"/(?s:.*)/ {self.literal(end)}")


def json_of(schema: Mapping[str, Any]) -> str:
    """JSON of a schema; what is not supported is refused."""
    return f"%json {json.dumps({**closed(schema), 'x-guidance': guidance_options(schema)})}"


def quoted(text: str) -> str:
    """A text in a rule."""
    return json.dumps(text)


def escaped(text: str) -> str:
    """A text in a regular expression of the grammar."""
    return "".join(f"\\x{{{ord(character):x}}}" if not character.isalnum() else character for character in text)
