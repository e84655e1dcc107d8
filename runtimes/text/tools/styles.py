"""How model families write tool calls, and which of them a chat template uses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Style:
    """A way to write tool calls.

    Attributes:
        name: of the family.
        body: how calls are written: "json" one object or a list of them, "named" the name of the function and a JSON
            object, "python" calls in the syntax of Python, "xml" tags with the values as text.
        opens: texts that begin calls; the grammar writes the first.
        close: the text after calls; empty where the calls end by themselves.
        bare: calls may also begin the answer, without one of `opens`.
        arguments: key of the arguments in JSON.
        many: how several calls are written: "list" in a list, "repeat" each of them between `opens` and `close`,
            otherwise the text between two of them.
        padding: the text that the grammar writes after `opens` and before `close`.
        id_length: characters of the id of a call.
    """

    name: str
    body: Literal["json", "named", "python", "xml"]
    opens: tuple[str, ...]
    close: str = ""
    bare: bool = False
    arguments: str = "arguments"
    many: str = "repeat"
    padding: str = ""
    id_length: int = 24


HERMES = Style("hermes", "json", ("<tool_call>",), "</tool_call>", padding="\n")
QWEN3_CODER = Style("qwen3_coder", "xml", ("<tool_call>", "<function="), "</tool_call>", padding="\n")
MISTRAL = Style("mistral", "json", ("[TOOL_CALLS]",), many="list", id_length=9)
MISTRAL_ARGS = Style("mistral_args", "named", ("[TOOL_CALLS]",), id_length=9)
LFM2 = Style("lfm2", "python", ("<|tool_call_start|>",), "<|tool_call_end|>", many="list")
PHI4 = Style("phi4", "json", ("<|tool_call|>",), "<|/tool_call|>", many="list")
GRANITE = Style("granite", "json", ("<|tool_call|>",), many="list")
LLAMA3 = Style("llama3", "json", ("<|python_tag|>",), bare=True, arguments="parameters", many="; ")
GEMMA = Style("gemma", "python", ("```tool_code",), "```", many="\n", padding="\n")
GEMMA_JSON = Style("gemma_json", "json", ("```tool_call", "```json"), "```", True, "parameters", "\n", "\n")
# Of models whose chat template has no tools: `generic` tells them in the messages to write calls in this way.
GENERIC = Style("generic", "json", ("<tool_call>",), "</tool_call>", padding="\n")

# The first style that a template has the signs of.
_DETECTED: tuple[tuple[Style, Callable[[str], bool]], ...] = (
    (QWEN3_CODER, lambda template: "<tool_call>" in template and "<function=" in template),
    (HERMES, lambda template: "<tool_call>" in template),
    (MISTRAL_ARGS, lambda template: "[TOOL_CALLS]" in template and "[ARGS]" in template),
    (MISTRAL, lambda template: "[TOOL_CALLS]" in template),
    (PHI4, lambda template: "<|/tool_call|>" in template),
    (GRANITE, lambda template: "<|tool_call|>" in template),
    (
        LFM2,
        lambda template: any(
            sign in template for sign in ("<|tool_call_start|>", "<|tool_list_start|>", "List of tools: [")
        ),
    ),
    (
        LLAMA3,
        lambda template: (
            "<|python_tag|>" in template or ("<|start_header_id|>" in template and '"parameters"' in template)
        ),
    ),
    (GEMMA, lambda template: "tool_code" in template),
    (GEMMA_JSON, lambda template: "<start_of_turn>" in template and "tools" in template),
)
STYLES = (*(style for style, _ in _DETECTED), GENERIC)


def has_tools(chat_template: str) -> bool:
    """Whether a chat template writes the tools of a request."""
    return "tools" in chat_template


def style_of(chat_template: str) -> Style:
    """The style of the tool calls in a chat template; `GENERIC` where it has no tools, or calls that are not known."""
    if not has_tools(chat_template):
        return GENERIC
    return next((style for style, matches in _DETECTED if matches(chat_template)), GENERIC)
