"""The arguments of the Python API: their types, and their conversion to those that the runtimes take."""

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from edgekiln import arguments
from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Ids
from edgekiln.runtimes.grammar.compile import GrammarKind, compile_grammar, kind_of
from edgekiln.runtimes.sampling.constraint import Constraint
from edgekiln.runtimes.text.chat_template import check_tools, check_variables
from edgekiln.runtimes.text.stream import SpecialTokensChoice
from edgekiln.runtimes.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgekiln.calib.data.options import DataOptions
    from edgekiln.calib.evaluation.options import QualityText
    from edgekiln.calib.limits import Limits
    from edgekiln.calib.recipe import Recipe
    from edgekiln.calib.tensorrt.options import TensorRTOptions
    from edgekiln.pipeline.options import CacheType

# One prompt: text or token ids; or a batch of prompts.
Prompt = str | Sequence[int] | Ids
Message = Mapping[str, Any]


class GenerateKeywords(TypedDict, total=False):
    """Keyword arguments of `Engine.generate`, `Engine.chat` and `Session.ask`.

    Sampling options that are left out or None take the model's own defaults (its generation_config.json), and where it
    has none the most likely token is taken.

    Attributes:
        max_tokens: tokens of an answer, at most; 256 by default.
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_k: sample from the k most likely tokens; 0 from all.
        top_p: sample from the most likely tokens whose probabilities sum up to this.
        min_p: sample from tokens at least this many times as likely as the most likely one.
        repetition_penalty: above 1, tokens of the prompt and the answer become less likely.
        presence_penalty: above 0, tokens of the answer become less likely, in [-2, 2].
        frequency_penalty: above 0, tokens of the answer become less likely each time that they occur, in [-2, 2].
        logit_bias: what is added to the logits of tokens, by id, in [-100, 100].
        seed: the same seed gives the same answer; None draws a fresh one.
        stop: one or more strings; the answer ends before the first of them. They may be special tokens, or cross them,
            whether these are shown or not. None: no such strings.
        ignore_eos: continue after the end-of-sequence token.
        logprobs: compute the log-probability of each token.
        top_logprobs: with `logprobs`, also those of so many of the most likely tokens, 20 at most.
        json_schema: the answer is JSON of this schema, a mapping or JSON text; as the next two, this needs the
            extra `grammar`.
        grammar: the answer is a text of this grammar, in Lark's syntax or GBNF.
        regex: the answer matches this regular expression.
        speculate: use prompt-lookup speculative decoding where it is faster; the answer is the same.
        special_tokens: special tokens in the answer's text, such as tool markers: "auto" shows all but bos, eos and
            pad, "show" all, "hide" none.
    """

    max_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    ignore_eos: bool
    logprobs: bool
    top_logprobs: int
    json_schema: Mapping[str, Any] | str | None
    grammar: str | None
    regex: str | None
    speculate: bool
    special_tokens: SpecialTokensChoice


class ChatKeywords(GenerateKeywords, total=False):
    """Keyword arguments of `Engine.chat` and `Session.ask`: those of `Engine.generate` and of the chat template.

    Attributes:
        tools: JSON schemas of functions that the model may call, as in transformers.
        template_variables: further variables of the template, e.g. {"enable_thinking": False}.
        chat_template: name of the template to use, where the engine has several; by default `tool_use` if there is one
            and tools are given, else `default`.
        parse_special: control tokens in the text of messages, tools and variables count as such, as in transformers.
            By default they are text. Only for text that is trusted.
    """

    tools: Sequence[Mapping[str, Any]] | None
    template_variables: Mapping[str, Any] | None
    chat_template: str | None
    parse_special: bool


# Keywords that limit the answer; at most one may be given.
GRAMMAR_KEYWORDS = ("json_schema", "grammar", "regex")

_CHAT_ONLY = ChatKeywords.__annotations__.keys() - GenerateKeywords.__annotations__.keys()


class BuildKeywords(TypedDict, total=False):
    """Keyword arguments of `build`; `edgekiln.pipeline.options.BuildOptions` documents them."""

    group_size: int | None
    recipe: "Recipe | None"
    data: "DataOptions"
    limits: "Limits"
    kv: "CacheType"
    max_length: int | None
    tensorrt: "TensorRTOptions"
    quality_text: "QualityText | None"
    force: bool
    strict: bool


def split_chat_keywords(keywords: ChatKeywords) -> tuple[dict[str, Any], GenerateKeywords]:
    """Keyword arguments of the chat template, for `Tokenizer.encode_chat`, and those of generating.

    Raises:
        RequestError: there is no such keyword, or one of the chat template has another type.
    """
    check_names(keywords, ChatKeywords.__annotations__)
    chat = {name: value for name, value in keywords.items() if name in _CHAT_ONLY}
    if "parse_special" in chat:
        arguments.flag("parse_special", chat["parse_special"])
    check_tools(chat.get("tools"))
    if chat.get("template_variables") is not None:
        check_variables(chat["template_variables"])
    rest = {name: value for name, value in keywords.items() if name not in _CHAT_ONLY}
    return chat, cast(GenerateKeywords, rest)


def check_names(keywords: Mapping[str, object], known: Collection[str]) -> None:
    """Check that every keyword is one of `known`.

    Raises:
        RequestError: naming the first that is not, and one that is like it, or those that there are.
    """
    for name in keywords:
        if name not in known:
            close = arguments.closest(str(name), known)
            hint = f"the options are {', '.join(known)}" if close is None else f"did you mean {close}?"
            raise RequestError(f"there is no option {name!r:.60}: {hint}")


def generate_option(name: str, value: Any) -> Any:
    """The value of a keyword of `GenerateKeywords` in its type.

    Raises:
        RequestError: there is no such keyword, or the value has another type.
    """
    check_names({name: value}, GenerateKeywords.__annotations__)
    if convert := _TYPES.get(name):
        return convert(name, value)
    return None if value is None else _SAMPLING_TYPES.get(name, arguments.number)(name, value)


def constraint_of(tokenizer: Tokenizer, values: Mapping[str, Any]) -> Constraint | None:
    """The grammar that the keywords `json_schema`, `grammar` and `regex` ask for; None where all are None.

    Raises:
        RequestError: more than one is given, or the grammar cannot be used.
        EdgekilnError: llguidance is not installed.
    """
    given = {name: value for name, value in values.items() if value is not None}
    if len(given) > 1:
        raise RequestError(f"{' and '.join(given)} do not go together: give one of them")
    for name, value in given.items():
        if name != "json_schema" and not isinstance(value, str):
            raise RequestError(f"{name} must be a string, got {value!r:.60}")
        kind = kind_of(value) if name == "grammar" else cast(GrammarKind, name)
        return compile_grammar(tokenizer, kind, value)
    return None


def _unchanged(_name: str, value: Any) -> Any:
    """A value that is checked where it is used."""
    return value


def _logit_bias(name: str, bias: object) -> dict[int, float]:
    if not isinstance(bias, Mapping):
        raise RequestError(f"{name} must map token ids to numbers, got {bias!r:.60}")
    return {
        arguments.integer(f"a token id of {name}", token): arguments.number(name, value)
        for token, value in bias.items()
    }


def _stop_strings(_name: str, stop: object) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else () if stop is None else stop
    if not isinstance(strings, Sequence | Set) or isinstance(strings, bytes | bytearray):
        raise RequestError(f"stop must be a string or a list of strings, got {stop!r:.60}")
    return tuple(strings)


_TYPES: dict[str, Callable[[str, Any], Any]] = {
    "stop": _stop_strings,
    "special_tokens": _unchanged,
    "ignore_eos": arguments.flag,
    "logprobs": arguments.flag,
    "speculate": arguments.flag,
    "max_tokens": arguments.integer,
    "top_logprobs": arguments.integer,
    **dict.fromkeys(GRAMMAR_KEYWORDS, _unchanged),
}
# Of options that may be None. The others are numbers.
_SAMPLING_TYPES: dict[str, Callable[[str, Any], Any]] = {
    "top_k": arguments.integer,
    "seed": arguments.integer,
    "logit_bias": _logit_bias,
}


def token_ids(ids: object) -> Ids:
    """Token ids as int64[S].

    Raises:
        RequestError: they are not a sequence of integers.
    """
    try:
        array = np.asarray(ids)
    except ValueError:  # lists of different lengths
        array = np.zeros(())
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise RequestError(f"token ids must be a list or array of integers below 2^63, got {ids!r:.60}")
    if array.size and int(array.max()) >= 2**63:
        raise RequestError(f"token ids must be integers below 2^63, got {int(array.max())}")
    return array.astype(np.int64)


def batch_of(prompt: Prompt | Sequence[Prompt]) -> list[str | Ids]:
    """A prompt or a batch of prompts as a list of texts and int64[S] token ids.

    Raises:
        RequestError: a prompt is neither text nor token ids.
    """
    if isinstance(prompt, str):
        return [prompt]
    if hasattr(prompt, "__array__"):
        array: np.ndarray = np.asarray(prompt)
        return [token_ids(row) for row in array] if array.ndim == 2 else [token_ids(array)]
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray | memoryview):
        raise RequestError(f"prompt must be text, token ids or a list of either, got {prompt!r:.60}")
    if all(isinstance(item, int | np.integer) for item in prompt):  # also of none, an empty prompt
        return [token_ids(prompt)]
    return [item if isinstance(item, str) else token_ids(item) for item in prompt]
