"""The prompt of a conversation: its token ids, and how its answer is limited and divided."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Ids
from edgekiln.runtimes.sampling.constraint import Constraint
from edgekiln.runtimes.text.chat_template import check_variables
from edgekiln.serve.answer_parser import AnswerParser
from edgekiln.serve.answering import check_prompt, encode
from edgekiln.serve.engines import LoadedEngine
from edgekiln.serve.errors import ApiError, bad_request, unsupported
from edgekiln.serve.structured import Form, compile_form
from edgekiln.serve.tool_choice import ToolChoice
from edgekiln.serve.tools.parser import tool_parser_for
from edgekiln.serve.tools.reasoning import reasoning_splitter_for

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
    tools = None if conversation.tools is None else conversation.tools.tools
    try:
        template = tokenizer.chat_template(None, tools)
    except RequestError as error:
        raise ApiError(400, str(error), "model", "no_chat_template") from error
    variables = _variables(engine, conversation, template)
    size = sum(len(message["content"]) for message in conversation.messages) + 1000 * len(tools or ())

    def ids() -> Ids:
        return tokenizer.encode_chat(
            conversation.messages, tools=tools, template_variables=variables, max_tokens=engine.max_length
        )

    prompt = check_prompt(await encode(param, size, ids), engine, param)
    constraint = await compile_form(tokenizer, form)
    end = b"".join(tokenizer.token_bytes(token) for token in prompt[-_END:].tolist()).decode(errors="replace")

    def parser() -> AnswerParser:
        return AnswerParser(
            reasoning_splitter_for(template, end), None if tools is None else tool_parser_for(template, tools)
        )

    return Prepared(prompt, constraint, parser)


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
