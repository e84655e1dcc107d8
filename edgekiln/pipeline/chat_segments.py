"""A chat template as the pieces of text between messages, for programs that have no Jinja.

Most templates put a fixed text before the first message, between two messages of certain roles and after the last, and
at most strip what a message says. What these texts are is found by rendering conversations of every order of roles, and
kept only if it gives what the template gives for all of them, with contents of every kind.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer as FastTokenizer

from edgekiln.errors import RequestError
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.sources.base import ModelSource

Order = Literal["any", "system-first", "user-last", "turns", "turns-user-last"]
Rule = Literal["as-is", "strip", "after-think", "after-think-lines", "after-think-strip"]
Message = Mapping[str, str]
# Renders messages, which end with the beginning of an answer, given what `strftime_now` is.
Render = Callable[[list[dict[str, str]], Callable[[str], str]], str]

START, END = "start", "end"
_THINK = "</think>"
_NOW_BEGIN, _NOW_END = "\x01", "\x02"
# What C and Python write alike.
_DATE = re.compile(r"(?:[^%]|%[YmdBbAaHMSjypIeZ%]|%-[dmHIMSj])*")
_ORDERS: tuple[Order, ...] = ("any", "system-first", "user-last", "turns", "turns-user-last")
_RULES: dict[Rule, Callable[[str], str]] = {
    "as-is": lambda text: text,
    "strip": str.strip,
    "after-think": lambda text: text.split(_THINK)[-1],
    "after-think-lines": lambda text: text.split(_THINK)[-1].lstrip("\n") if _THINK in text else text,
    "after-think-strip": lambda text: text.split(_THINK)[-1].strip(),
}
_CONTENTS = (
    " \t padded\n\n",
    "\n\nlines\nof it\n",
    "<think>\na thought\n</think>\n\n the answer ",
    "</think></think>\n",
    "{{ bos_token }} {% raw %} [INST] <|im_end|> <start_of_turn> & \"'\\",
    "\u00a0\x1cspaces of all kinds\u2003\x85",
    "日本語 👩‍👩‍👧",
    "None",
)
_BLANK = ("", " ", "\n \n")
_LONGEST = 5


class ChatSegments(BaseModel):
    """chat_segments.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: Order
    rules: dict[str, Rule]  # role -> what becomes of what such a message says
    needs_text: list[str]  # roles whose messages may not be blank
    # From the message before, or `start`, to the next, or `end`: text, date format for strftime, text, ...
    between: dict[str, dict[str, list[str]]]

    def render(self, messages: Sequence[Message], now: Callable[[str], str]) -> str:
        """The prompt of messages that `allows` their roles."""
        roles = [START, *(message["role"] for message in messages), END]
        contents = [*(_RULES[self.rules[message["role"]]](message["content"]) for message in messages), ""]
        text = ""
        for (before, after), content in zip(itertools.pairwise(roles), contents, strict=True):
            pieces = self.between[before][after]
            text += "".join(now(piece) if i % 2 else piece for i, piece in enumerate(pieces)) + content
        return text


def allows(order: Order, roles: Sequence[str]) -> bool:
    """Whether a conversation of these roles has the order."""
    rest = list(roles[1:] if roles[0] == "system" else roles)
    if order == "any":
        return True
    if "system" in rest or (order == "user-last" and roles[-1] != "user"):
        return False
    if order in ("system-first", "user-last"):
        return True
    alternate = [("user", "assistant")[i % 2] for i in range(len(rest))]
    return bool(rest) and rest == alternate and (order == "turns" or rest[-1] == "user")


def chat_segments(source: ModelSource) -> ChatSegments | None:
    """The pieces of a source's chat template; None if it has no template or pieces cannot do it."""
    if not source.chat_template:
        return None
    tokenizer = Tokenizer(FastTokenizer.from_str(source.tokenizer_json), source.special_tokens, source.chat_template)
    return find_segments(lambda messages, now: tokenizer.apply_chat_template(messages, strftime_now=now))


def find_segments(render: Render) -> ChatSegments | None:
    """The pieces of a template, for the most conversations that pieces can do; None if they cannot do even turns."""
    for roles in (("system", "user", "assistant"), ("user", "assistant")):
        for order in _ORDERS:
            if pieces := _fit(render, order, roles):
                return pieces
    return None


def _fit(render: Render, order: Order, roles: Sequence[str]) -> ChatSegments | None:
    orders = list(_conversations(order, roles))
    try:
        between = _between(render, orders)
        if between is None:
            return None
        rules: dict[str, Rule] = {}
        for role in roles:
            few = _short(orders, role)
            fitting = (rule for rule in _RULES if _holds(render, order, between, role, rule, few))
            rule = next(fitting, None)
            if rule is None:
                return None
            rules[role] = rule
        pieces = ChatSegments(order=order, rules=rules, needs_text=[], between=between)
        blank = [
            role
            for role in roles
            if not all(
                _same(render, pieces, _saying(conversation, role, content))
                for conversation in _short(orders, role)
                for content in _BLANK
            )
        ]
        pieces = pieces.model_copy(update={"needs_text": blank})
        for i, conversation in enumerate(orders):
            contents = itertools.islice(itertools.cycle(_CONTENTS), i, None)
            if not _same(render, pieces, list(zip(conversation, contents, strict=False))):
                return None
    except RequestError:
        return None
    return pieces


def _conversations(order: Order, roles: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for length in range(1, _LONGEST + (order != "any")):
        for conversation in itertools.product(roles, repeat=length):
            if allows(order, conversation):
                yield conversation


def _short(orders: Sequence[Sequence[str]], role: str) -> list[Sequence[str]]:
    return [each for each in orders if role in each and len(each) <= 3]


def _saying(conversation: Sequence[str], role: str, content: str) -> list[tuple[str, str]]:
    return [(each, content if each == role else "x") for each in conversation]


def _between(render: Render, orders: Sequence[Sequence[str]]) -> dict[str, dict[str, list[str]]] | None:
    between: dict[str, dict[str, list[str]]] = {}
    for roles in orders:
        marks = [f"Xq{i}qX" for i in range(len(roles))]
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        text = render(messages, lambda pattern: f"{_NOW_BEGIN}{pattern}{_NOW_END}")
        parts = re.split("|".join(marks), text)
        if re.findall("|".join(marks), text) != marks:
            return None
        for before, after, part in zip([START, *roles], [*roles, END], parts, strict=True):
            pieces = re.split(f"[{_NOW_BEGIN}{_NOW_END}]", part)
            if between.setdefault(before, {}).setdefault(after, pieces) != pieces:
                return None
            if not all(_DATE.fullmatch(pattern) for pattern in pieces[1::2]):
                return None
    return between


def _holds(
    render: Render,
    order: Order,
    between: dict[str, dict[str, list[str]]],
    role: str,
    rule: Rule,
    orders: Sequence[Sequence[str]],
) -> bool:
    rules: dict[str, Rule] = {"system": "as-is", "user": "as-is", "assistant": "as-is", role: rule}
    pieces = ChatSegments(order=order, rules=rules, needs_text=[], between=between)
    return all(
        _same(render, pieces, _saying(conversation, role, content)) for conversation in orders for content in _CONTENTS
    )


def _same(render: Render, pieces: ChatSegments, conversation: Sequence[tuple[str, str]]) -> bool:
    messages = [{"role": role, "content": content} for role, content in conversation]
    return render(messages, str) == pieces.render(messages, str)
