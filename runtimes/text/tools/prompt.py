"""The prompt of a conversation that may have tools, with any chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgekiln.runtimes.base import Ids
from edgekiln.runtimes.text.chat_template import check_messages, check_tools
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.runtimes.text.tools.generic import generic_messages
from edgekiln.runtimes.text.tools.styles import has_tools


def chat_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    template_variables: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
    **others: Any,
) -> Ids:
    """Token ids, int64[S], as of `Tokenizer.encode_chat`; but a template without tools gets them in the messages.

    transformers, and `encode_chat`, leave them out then.

    Args:
        tokenizer: of the engine.
        messages, tools, template_variables, chat_template, others: as for `encode_chat`.

    Raises:
        RequestError: as for `encode_chat`; or the template has no tools, and messages with tools have another form.
    """
    check_messages(messages)
    check_tools(tools)
    told = tools or any(message.get("role") == "tool" or message.get("tool_calls") for message in messages)
    if (
        messages
        and told
        and tokenizer.has_chat_template
        and not has_tools(tokenizer.chat_template(chat_template, tools))
    ):
        messages = generic_messages(messages, tools, tokenizer, template_variables or {}, chat_template)
        tools = None
    return tokenizer.encode_chat(
        messages, tools=tools, template_variables=template_variables, chat_template=chat_template, **others
    )
