"""Render a model's chat template with Jinja2, as transformers does.

The C++ library has no Jinja2; its text/chat_template.h renders chat_segments.json.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekiln.arguments import utf8
from edgekiln.engine.chat_templates import DEFAULT_TEMPLATE
from edgekiln.errors import RequestError, one_line
from edgekiln.runtimes.text.template_budget import MAX_SOURCE, MAX_TAGS, STEPS, TemplateLimitError

# A template, or several by name.
ChatTemplate = str | Mapping[str, str]
NowFunction = Callable[[str], str]
_TOOL_USE = "tool_use"
_MOST_LEVELS = 100  # of nested lists and objects
# Variables and functions that edgekiln sets; a template variable of the same name would hide them.
_RESERVED = (
    *("messages", "tools", "add_generation_prompt"),
    *("raise_exception", "strftime_now", "namespace", "range", "dict", "cycler", "joiner", "loop", "self", "caller"),
)


def choose_template(templates: ChatTemplate, name: str | None = None, tools: object = None) -> str:
    """The source of the template that transformers' `get_chat_template` chooses.

    Args:
        templates: a template, or several by name.
        name: of the template to take; by default `tool_use` where there is one and tools are given, else `default`.
        tools: the tools of the request; None if there are none.

    Raises:
        RequestError: there is no such template, or no default among several.
    """
    if isinstance(templates, str):
        templates = {DEFAULT_TEMPLATE: templates}
    names = ", ".join(sorted(templates))
    if name is not None:
        if not isinstance(name, str) or name not in templates:
            raise RequestError(f"there is no chat template {name!r:.60}: the engine has {names}")
        return templates[name]
    chosen = _TOOL_USE if tools is not None and _TOOL_USE in templates else DEFAULT_TEMPLATE
    if chosen not in templates:
        raise RequestError(f"the engine has several chat templates and no default: name one of {names}")
    return templates[chosen]


def check_messages(messages: object) -> None:
    """Check that messages are a list of JSON objects.

    Raises:
        RequestError: they are not.
    """
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        raise RequestError(f"messages must be a list of dictionaries with role and content, got {messages!r:.60}")
    _check_json("messages", messages)


def check_tools(tools: object) -> None:
    """Check that tools are a list of JSON objects, or None.

    Raises:
        RequestError: they are not.
    """
    if tools is not None:
        _check_objects("tools", tools)


def check_variables(variables: object) -> None:
    """Check the names and types of variables that a user gives a template.

    Raises:
        RequestError: a name is one that edgekiln sets or none at all, or a value is no JSON value.
    """
    if not isinstance(variables, Mapping):
        raise RequestError(f"template_variables must be a dictionary, got {variables!r:.60}")
    for name, value in variables.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise RequestError(f"a template variable's name must be letters, digits and _, got {name!r:.60}")
        if name in _RESERVED:
            raise RequestError(f"{name} cannot be a template variable: edgekiln sets it itself")
        if name == "documents":
            _check_objects(name, value)
        _check_json(f"template variable {name}", value)


def _check_objects(name: str, value: object) -> None:
    if not isinstance(value, Sequence) or not all(isinstance(item, Mapping) for item in value):
        raise RequestError(f"{name} must be a list of JSON objects, got {value!r:.60}")
    _check_json(name, value)


def _check_json(name: str, value: object, depth: int = 0) -> None:
    if depth > _MOST_LEVELS:
        raise RequestError(f"{name} must be nested less deeply than {_MOST_LEVELS} levels")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise RequestError(f"{name} must be JSON, whose keys are strings, got {key!r:.60}")
            utf8(key)
            _check_json(name, item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_json(name, item, depth + 1)
    elif isinstance(value, str):
        utf8(value)
    elif value is not None and not isinstance(value, int | float):
        raise RequestError(f"{name} must be JSON, got {value!r:.60}")


def render(template: str, variables: dict[str, Any], marks: bool = False, steps: int = STEPS) -> str:
    """Render a template.

    Args:
        template: Jinja2 source.
        variables: its variables, `messages` among them.
        marks: texts in them are `MarkedText`; so is the result, then.
        steps: that the rendering may take, besides those that longer messages add.

    Raises:
        RequestError: the template is invalid or refuses the messages.
        TemplateLimitError: the template takes too long or writes too much.
    """
    # Importing Jinja2 takes 0.1 s, which plain prompts need not pay.
    from edgekiln.runtimes.text import template_environment

    if len(template) > MAX_SOURCE:
        raise TemplateLimitError(
            f"the chat template has {len(template)} characters, over {MAX_SOURCE}: use a model with another template"
        )
    if template.count("{{") + template.count("{%") > MAX_TAGS:
        raise TemplateLimitError(f"the chat template has over {MAX_TAGS} tags: use a model with another template")
    try:
        return template_environment.render(template, variables, marks, steps)
    except TemplateLimitError:
        raise
    except Exception as error:  # a template can raise anything
        raise RequestError(f"the chat template does not take these messages: {one_line(error)}") from error
