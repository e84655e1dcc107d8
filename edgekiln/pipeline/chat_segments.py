"""Convert a chat template to fixed text segments, for programs without a Jinja interpreter (libedgekiln).

Most templates put a fixed text before the first message, between messages of given roles and after the last message,
and change a message's content at most by stripping it. The segments are found by rendering conversations of every
order of roles. They are kept only if they reproduce the template's output for all of these conversations, with
contents of many kinds.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from jinja2 import TemplateSyntaxError
from pydantic import BaseModel, ConfigDict

from edgekiln.engine.chat_templates import DEFAULT_TEMPLATE
from edgekiln.errors import RequestError, SourceError
from edgekiln.runtimes.text.chat_template import render
from edgekiln.runtimes.text.template_budget import TemplateLimitError
from edgekiln.sources.base import ModelSource

Order = Literal["any", "system-first", "user-last", "turns", "turns-user-last"]
Rule = Literal["as-is", "strip", "after-think", "after-think-lines", "after-think-strip"]
Message = Mapping[str, str]
# render(messages, strftime_now) -> prompt text, which ends with the start of the assistant's answer.
Render = Callable[[list[dict[str, str]], Callable[[str], str]], str]

START, END = "start", "end"
_THINK = "</think>"
_NOW_BEGIN, _NOW_END = "\x01", "\x02"
# Date formats that C's strftime and Python's agree on.
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
_MOST_STEPS = 5_000  # of a rendering
_LONGEST = 5  # messages of a conversation that is tried


class ChatSegments(BaseModel):
    """chat_segments.json.

    Attributes:
        order: the orders of roles that a conversation may have, see `allows`.
        rules: role -> how a message's content is changed before it is inserted, see `_RULES`.
        needs_text: roles whose messages may not be blank.
        between: role of a message, or "start" -> role of the next, or "end" -> the segments between the two contents:
            text, strftime format, text, ...
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: Order
    rules: dict[str, Rule]
    needs_text: list[str]
    between: dict[str, dict[str, list[str]]]

    def render(self, messages: Sequence[Message], now: Callable[[str], str]) -> str:
        """The prompt text of messages whose order of roles `allows` accepts; `now` formats the current time."""
        roles = [START, *(message["role"] for message in messages), END]
        contents = [*(_RULES[self.rules[message["role"]]](message["content"]) for message in messages), ""]
        text = ""
        for (before, after), content in zip(itertools.pairwise(roles), contents, strict=True):
            segments = self.between[before][after]
            text += "".join(now(part) if i % 2 else part for i, part in enumerate(segments)) + content
        return text


def allows(order: Order, roles: Sequence[str]) -> bool:
    """Whether a conversation with these roles has the order.

    "any": all; "system-first": a system message only at the start; "user-last": the same, and the last message is the
    user's; "turns": after the system message, user and assistant alternate; "turns-user-last": both.
    """
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
    """The segments of a source's default chat template.

    None without one, where segments cannot reproduce it, or where rendering it thousands of times would take minutes.
    """
    templates = source.chat_template
    default = templates.get(DEFAULT_TEMPLATE) if isinstance(templates, Mapping) else templates
    if default is None:
        return None
    variables = template_variables(source)

    def rendered(messages: list[dict[str, str]], now: Callable[[str], str]) -> str:
        return render(default, {**variables, "messages": messages, "strftime_now": now}, steps=_MOST_STEPS)

    return find_segments(rendered)


def check_chat_templates(source: ModelSource) -> None:
    """Check that each chat template of a source compiles and ends, before a build spends time on the model.

    A template may refuse the short conversation that is tried.

    Raises:
        SourceError: a template is not valid Jinja.
        TemplateLimitError: a template takes too long or writes too much.
    """
    templates = source.chat_template or {}
    messages = [{"role": "user", "content": "Hello"}]
    for template in templates.values() if isinstance(templates, Mapping) else [templates]:
        try:
            render(template, {**template_variables(source), "messages": messages})
        except TemplateLimitError:
            raise
        except RequestError as error:
            if isinstance(error.__cause__, TemplateSyntaxError):
                raise SourceError(
                    f"the chat template of {source.name} is not valid Jinja (line {error.__cause__.lineno}: "
                    f"{error.__cause__.message}): correct it, or remove it from the model"
                ) from error


def template_variables(source: ModelSource) -> dict[str, Any]:
    """The variables of a template but messages."""
    own = source.special_tokens.template_variables
    return {"tools": None, "documents": None, **own, "add_generation_prompt": True}


def find_segments(render: Render) -> ChatSegments | None:
    """Segments that reproduce a template for as many orders of roles as possible; None if there are none.

    Args:
        render: renders the template.
    """
    for roles in (("system", "user", "assistant"), ("user", "assistant")):
        for order in _ORDERS:
            if segments := _fit(render, order, roles):
                return segments
    return None


def _fit(render: Render, order: Order, roles: Sequence[str]) -> ChatSegments | None:
    """Segments for all conversations of these roles in this order; None if a conversation renders differently."""
    orders = list(_conversations(order, roles))
    try:
        between = _between(render, orders)
        if between is None:
            return None
        rules: dict[str, Rule] = {}
        for role in roles:
            few = _short(orders, role)
            fitting = (rule for rule in _RULES if _reproduces_role(render, order, between, role, rule, few))
            rule = next(fitting, None)
            if rule is None:
                return None
            rules[role] = rule
        segments = ChatSegments(order=order, rules=rules, needs_text=[], between=between)
        blank = [
            role
            for role in roles
            if not all(
                _reproduces(render, segments, _with_content(conversation, role, content))
                for conversation in _short(orders, role)
                for content in _BLANK
            )
        ]
        segments = segments.model_copy(update={"needs_text": blank})
        for i, conversation in enumerate(orders):
            contents = itertools.islice(itertools.cycle(_CONTENTS), i, None)
            if not _reproduces(render, segments, list(zip(conversation, contents, strict=False))):
                return None
    except RequestError:
        return None
    return segments


def _conversations(order: Order, roles: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for length in range(1, _LONGEST + (order != "any")):
        for conversation in itertools.product(roles, repeat=length):
            if allows(order, conversation):
                yield conversation


def _short(orders: Sequence[Sequence[str]], role: str) -> list[Sequence[str]]:
    return [each for each in orders if role in each and len(each) <= 3]


def _with_content(conversation: Sequence[str], role: str, content: str) -> list[tuple[str, str]]:
    return [(each, content if each == role else "x") for each in conversation]


def _between(render: Render, orders: Sequence[Sequence[str]]) -> dict[str, dict[str, list[str]]] | None:
    """`ChatSegments.between`, found by rendering markers as contents; None if a text depends on more than two roles."""
    between: dict[str, dict[str, list[str]]] = {}
    for roles in orders:
        marks = [f"Xq{i}qX" for i in range(len(roles))]
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        text = render(messages, lambda pattern: f"{_NOW_BEGIN}{pattern}{_NOW_END}")
        texts = re.split("|".join(marks), text)
        if re.findall("|".join(marks), text) != marks:
            return None
        for before, after, between_text in zip([START, *roles], [*roles, END], texts, strict=True):
            parts = re.split(f"[{_NOW_BEGIN}{_NOW_END}]", between_text)
            if between.setdefault(before, {}).setdefault(after, parts) != parts:
                return None
            if not all(_DATE.fullmatch(pattern) for pattern in parts[1::2]):
                return None
    return between


def _reproduces_role(
    render: Render,
    order: Order,
    between: dict[str, dict[str, list[str]]],
    role: str,
    rule: Rule,
    orders: Sequence[Sequence[str]],
) -> bool:
    rules: dict[str, Rule] = {"system": "as-is", "user": "as-is", "assistant": "as-is", role: rule}
    segments = ChatSegments(order=order, rules=rules, needs_text=[], between=between)
    return all(
        _reproduces(render, segments, _with_content(conversation, role, content))
        for conversation in orders
        for content in _CONTENTS
    )


def _reproduces(render: Render, segments: ChatSegments, conversation: Sequence[tuple[str, str]]) -> bool:
    messages = [{"role": role, "content": content} for role, content in conversation]
    return render(messages, str) == segments.render(messages, str)
