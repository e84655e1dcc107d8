"""The prompt of a conversation: its token ids, and how its answer is limited and divided."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Ids
from edgekiln.runtimes.sampling.constraint import Constraint
from edgekiln.runtimes.text.chat_template import check_variables
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.runtimes.text.tools.generic import generic_messages
from edgekiln.runtimes.text.tools.styles import GENERIC, Style, style_of
from edgekiln.serve.answer_parser import AnswerParser
from edgekiln.serve.answering import check_prompt, encode
from edgekiln.serve.engines import LoadedEngine
from edgekiln.serve.errors import ApiError, bad_request, unsupported
from edgekiln.serve.structured import Form, compile_form
from edgekiln.serve.tool_choice import ToolChoice
from edgekiln.serve.tools.grammar import tool_grammar
from edgekiln.serve.tools.parser import ToolParser
from edgekiln.serve.tools.reasoning import begins_in_reasoning, reasoning_splitter_for, reasoning_tags_of

_END = 32  # tokens at the end of a prompt, which tell whether the answer begins in reasoning


@dataclass(frozen=True)
class Conversation:
    """What a request says.

    Attributes:
        messages: as chat templates have them.
        tools: functions that the answer may call.
        template_variables: further variables of the chat template.
        reasoning_effort: a variable that some chat templates have.
        param: name of the field with the messages.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: ToolChoice | None
    template_variables: Mapping[str, Any]
    reasoning_effort: str | None = None
    param: str = "messages"


@dataclass(frozen=True)
class Prepared:
    """A conversation, ready to be answered.

    Attributes:
        ids: int64[S], the prompt.
        constraint: the limit on the answer.
        parser: makes what divides the text of one answer.
    """

    ids: Ids
    constraint: Constraint | None
    parser: Callable[[], AnswerParser]


async def conversation_prompt(engine: LoadedEngine, conversation: Conversation, form: Form | None) -> Prepared:
    """The prompt of a conversation.

    Raises:
        ApiError: the engine has no chat template, the template refuses the conversation, or it is too long.
    """
    tokenizer, param = engine.tokenizer, conversation.param
    if not tokenizer.has_chat_template:
        raise bad_request(f"{engine.name} has no chat template: use /v1/completions", "model", "no_chat_template")
    choice = conversation.tools
    tools = None if choice is None else choice.tools
    try:
        template = tokenizer.chat_template(None, tools)
    except RequestError as error:
        raise ApiError(400, str(error), "model", "no_chat_template") from error
    variables = _variables(engine, conversation, template)
    style = style_of(template)
    size = sum(len(message["content"]) for message in conversation.messages) + 1000 * len(tools or ())

    def ids() -> Ids:
        if style is GENERIC:
            messages = generic_messages(conversation.messages, tools, tokenizer, variables)
            return tokenizer.encode_chat(messages, template_variables=variables, max_tokens=engine.max_length)
        return tokenizer.encode_chat(
            conversation.messages, tools=tools, template_variables=variables, max_tokens=engine.max_length
        )

    prompt = check_prompt(await encode(param, size, ids), engine, param)
    end = b"".join(tokenizer.token_bytes(token) for token in prompt[-_END:].tolist()).decode(errors="replace")
    if choice is not None and choice.required:
        if form is not None:
            raise bad_request(
                f"tool_choice excludes {form[2].partition('.')[0]}: give one", "tool_choice", "invalid_value"
            )
        form = _demanded_calls(tokenizer, choice, style, template, end)
    elif form is not None and choice is not None:
        message = f"{form[2].partition('.')[0]} excludes tools: the answer could call none"
        raise bad_request(message, "tools", "invalid_value")

    def parser() -> AnswerParser:
        # An answer of a form has no reasoning, as the form begins with its first token.
        free = form is None or choice is not None
        return AnswerParser(
            reasoning_splitter_for(template, end) if free else None,
            None if choice is None else ToolParser(style, choice.tools),
            parallel=choice is None or choice.parallel,
        )

    return Prepared(prompt, await compile_form(tokenizer, form), parser)


def _demanded_calls(tokenizer: Tokenizer, choice: ToolChoice, style: Style, template: str, end: str) -> Form:
    """The form of an answer that must call a tool, after the reasoning of a model that reasons."""
    tags = reasoning_tags_of(template)
    inside = tags is not None and begins_in_reasoning(tags, end)
    try:
        grammar = tool_grammar(style, choice.tools, tokenizer, None, choice.parallel, tags, inside)
    except RequestError as error:
        raise ApiError(400, str(error), "tools", "invalid_value") from error
    # Between tags, texts are not JSON.
    return "lark" if style.body == "xml" else "json_in_lark", grammar, "tools"


def _variables(engine: LoadedEngine, conversation: Conversation, template: str) -> dict[str, Any]:
    variables = dict(conversation.template_variables)
    try:
        check_variables(variables)
    except RequestError as error:
        raise ApiError(400, str(error), "chat_template_kwargs", "invalid_value") from error
    effort = conversation.reasoning_effort
    if effort is not None:
        if "reasoning_effort" not in template:
            raise unsupported("reasoning_effort", f"the chat template of {engine.name} does not have it")
        variables["reasoning_effort"] = effort
    return variables
