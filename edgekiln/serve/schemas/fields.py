"""Fields of OpenAI's API that change nothing here, and those that cannot be served."""

from collections.abc import Callable, Mapping
from typing import Any

from edgekiln.serve.errors import unsupported

_Accepts = Callable[[Any], bool]
# Field -> the values that are accepted, as they ask for nothing, and what is said of others.
FieldTable = Mapping[str, tuple[_Accepts, str]]


def _any(_value: object) -> bool:
    return True


def _only(*values: object) -> _Accepts:
    return lambda value: value in values


_NOTHING = _only()
_LABEL = (_any, "")

_COMMON: FieldTable = {
    "user": _LABEL,
    "metadata": _LABEL,
    "safety_identifier": _LABEL,
    "prompt_cache_key": _LABEL,
    "prompt_cache_retention": _LABEL,
    "store": (_only(False), "this server stores no answers, leave it out"),
    "service_tier": (_only("auto", "default"), "there is one tier, leave it out"),
}
CHAT: FieldTable = {
    **_COMMON,
    "modalities": (_only(["text"]), "answers are text"),
    "verbosity": (_only("medium"), "say in the messages how long the answer should be"),
    "audio": (_NOTHING, "answers are text"),
    "prediction": (_NOTHING, "repeated text is predicted from the prompt, leave it out"),
    "functions": (_NOTHING, "use tools"),
    "function_call": (_NOTHING, "use tool_choice"),
    "web_search_options": (_NOTHING, "this server searches nothing"),
}
COMPLETIONS: FieldTable = {
    **_COMMON,
    "suffix": (_only(""), "engines continue text, they fill no gaps"),
}
RESPONSES: FieldTable = {
    **_COMMON,
    "background": (_only(False), "this server stores no answers"),
    "truncation": (_only("disabled"), "shorten the input instead"),
    "previous_response_id": (_NOTHING, "this server stores no answers, send the conversation as input"),
    "conversation": (_NOTHING, "this server stores no answers, send the conversation as input"),
    "prompt": (_NOTHING, "this server stores no prompts, send the text as input"),
    "include": (_only([]), "there is nothing to include"),
    "max_tool_calls": (_NOTHING, "it limits tools of OpenAI, and this server has none"),
    "moderation": (_NOTHING, "this server moderates nothing"),
    "context_management": (_NOTHING, "shorten the input instead"),
}


def without_labels(body: dict[str, Any], table: FieldTable) -> dict[str, Any]:
    """A body without the fields of `table`.

    Raises:
        ApiError: the value of one cannot be served; it has the field's name.
    """
    for name in body.keys() & table.keys():
        accepts, why = table[name]
        if body[name] is not None and not accepts(body[name]):
            raise unsupported(name, why)
    return {name: value for name, value in body.items() if name not in table}
