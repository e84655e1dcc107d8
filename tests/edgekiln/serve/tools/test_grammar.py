"""Answers that must call tools: random ones that the grammars allow, read by the parsers, are valid."""

import json
from collections.abc import Sequence

import jsonschema
import numpy as np
import pytest
from tokenizers import AddedToken

from edgekiln.engine.manifest import SpecialTokens
from edgekiln.errors import RequestError
from edgekiln.runtimes.grammar.compile import compile_grammar
from edgekiln.runtimes.sampling.constraint import allowed_ids
from edgekiln.runtimes.sampling.sampler import Sampler, SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.runtimes.text.tools.styles import HERMES, LFM2, LLAMA3, MISTRAL_ARGS, QWEN3_CODER, STYLES, Style
from edgekiln.serve.tools.deltas import ContentDelta, ToolCallDelta
from edgekiln.serve.tools.grammar import json_grammar, tool_grammar
from edgekiln.serve.tools.parser import ToolParser
from edgekiln.serve.tools.reasoning import ReasoningSplitter, ReasoningTags
from support.cpp_tokenizers import FAMILIES, code_texts

THINK = ReasoningTags("<think>", "</think>")
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["celsius", "°F"]},
        "from": {"type": ["boolean", "null"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
NODE = {
    "type": "object",
    "properties": {"value": {"type": "number"}, "next": {"$ref": "#/$defs/node"}},
    "required": ["value"],
    "additionalProperties": False,
}
TREE = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/node"}},
    "required": ["root"],
    "additionalProperties": False,
    "$defs": {"node": NODE},
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now-utc", "description": "The time."}},
    {"type": "function", "function": {"name": "tree", "parameters": TREE}},
]
SCHEMAS = {"get_weather": WEATHER, "now-utc": {"type": "object", "maxProperties": 0}, "tree": TREE}
LONGEST = 1500


@pytest.fixture(scope="module", params=["text", "special"])
def tokenizer(request) -> Tokenizer:
    """A tokenizer without the marks of tool calls, or with them as special tokens."""
    made = FAMILIES["smollm"](code_texts(60_000))
    if request.param == "special":
        texts = {text for style in STYLES for text in (*style.opens[:1], style.close) if text.strip("`") == text != ""}
        texts |= {"[ARGS]", THINK.open, THINK.close} - {"<tool_call>", "</tool_call>"}
        made.add_special_tokens([AddedToken(text, normalized=False) for text in sorted(texts)])
    return Tokenizer(made, SpecialTokens(bos=1, eos=[made.token_to_id("</s>")]))


def answer(tokenizer: Tokenizer, grammar: str, seed: int, first: Sequence[int]) -> str:
    """A random answer that begins with the tokens `first`. Texts in tags are ended after a few tokens."""
    generator = np.random.default_rng(seed)
    sampler = Sampler(SamplingOptions(), constraint=compile_grammar(tokenizer, "lark", grammar))
    texts = [tokenizer.token_bytes(token) for token in range(tokenizer.size)]
    likely = [4 * (text[-1:] in b'"]}0123456789)>' and text != b"") - 0.3 * len(text) for text in texts]
    end = tokenizer.encode("\n</parameter>\n", add_special_tokens=False).tolist()
    stream, forced, text = tokenizer.stream("auto"), list(first), ""
    for _ in range(LONGEST):
        logits = (generator.normal(0, 1, tokenizer.size) + likely).astype(np.float32)
        logits[list(tokenizer.eos_ids)] += 6
        if forced:
            logits[forced.pop(0)] = 99
        sampled = sampler.sample(0, logits)
        text += stream.push(sampled.token)
        if sampled.ended:
            return text + stream.flush()
        value = text.rpartition("<parameter=")[2]
        if not forced and value.startswith("city>") and len(value) > 30 and "</" not in value:
            forced = list(end)
    raise AssertionError(f"no end: {text!r}")


def calls_of(style: Style, text: str, reasoning: ReasoningSplitter | None = None) -> list[tuple[str, str]]:
    if reasoning:
        deltas = [*reasoning.push(text), *reasoning.finish()]
        text = "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
    parser = ToolParser(style, TOOLS)
    calls: list[tuple[str, str]] = []
    for delta in [*parser.push(text), *parser.finish()]:
        assert isinstance(delta, ToolCallDelta), text
        if delta.name is not None:
            calls.append((delta.name, ""))
        calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments)
    return calls


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
@pytest.mark.parametrize(
    ("name", "parallel", "reasoning", "inside"),
    [
        (None, True, None, False),
        (None, False, None, False),
        ("get_weather", True, THINK, True),
        ("tree", False, THINK, False),
        ("now-utc", True, None, False),
    ],
)
def test_answers_are_valid_calls(tokenizer, style, name, parallel, reasoning, inside):
    grammar = tool_grammar(style, TOOLS, tokenizer, name, parallel, reasoning, inside)
    thought = ("" if inside else THINK.open) + f"I {style.opens[0].replace('<', '')} now{THINK.close}\n\n"
    first = tokenizer.encode(thought, add_special_tokens=False).tolist() if reasoning else []
    for seed in range(3):
        text = answer(tokenizer, grammar, seed, first)
        calls = calls_of(style, text, ReasoningSplitter(reasoning, inside) if reasoning else None)
        assert calls
        assert parallel or len(calls) == 1
        for called, arguments in calls:
            assert name in (None, called)
            jsonschema.validate(json.loads(arguments), SCHEMAS[called])


def allowed(tokenizer: Tokenizer, grammar: str, text: str, part: float = 1) -> tuple[bool, bool]:
    """Whether a grammar allows a text, or the first part of its tokens, and whether it may end after it."""
    ids = tokenizer.encode(text, add_special_tokens=False).tolist()
    state = compile_grammar(tokenizer, "lark", grammar).start()
    for token in ids[: int(len(ids) * part)]:
        if state.ended or token not in allowed_ids(state.allowed(), tokenizer.size):
            return False, False
        state.accept(token)
    return True, state.ended or bool(tokenizer.eos_ids & {*allowed_ids(state.allowed(), tokenizer.size).tolist()})


@pytest.mark.parametrize(
    ("style", "call", "wrong"),
    [
        (HERMES, '<tool_call>\n{"name": "now-utc", "arguments": {}}\n</tool_call>', '<tool_call>\n{"name": "f"'),
        (LLAMA3, '{"name": "now-utc", "parameters": {}}', '{"name": "f"'),
        (MISTRAL_ARGS, "[TOOL_CALLS]now-utc[ARGS]{}", "[TOOL_CALLS]f"),
        (LFM2, "<|tool_call_start|>[now-utc()]<|tool_call_end|>", "<|tool_call_start|>[f("),
        (QWEN3_CODER, "<tool_call>\n<function=now-utc>\n</function>\n</tool_call>", "<tool_call>\n<function=f"),
    ],
)
def test_calls_that_are_not_demanded(tokenizer, style, call, wrong):
    for parallel in (True, False):
        grammar = tool_grammar(style, TOOLS, tokenizer, parallel=parallel, demanded=False)
        assert allowed(tokenizer, grammar, "") == (True, True)
        assert allowed(tokenizer, grammar, "Hello.\nHow are you, <b>?") == (True, True)
        assert allowed(tokenizer, grammar, call) == (True, True)
        assert allowed(tokenizer, grammar, wrong) == (False, False)
        assert allowed(tokenizer, grammar, call, part=0.5) == (True, False)
        if not style.bare:
            assert allowed(tokenizer, grammar, f"Sure.\n{call}") == (True, True)
            assert allowed(tokenizer, grammar, f"Sure.\n{call}\n{call} Done.") == (parallel, parallel)
            assert allowed(tokenizer, grammar, f"Sure. {call} {wrong}") == (False, False)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_the_number_of_calls_is_limited(tokenizer, style):
    grammar = tool_grammar(style, TOOLS, tokenizer, "now-utc")
    state, calls = compile_grammar(tokenizer, "lark", grammar).start(), ""
    while not state.ended:  # the answer goes on wherever it can
        ids = allowed_ids(state.allowed(), tokenizer.size).tolist()
        texts = {token: tokenizer.token_bytes(token).decode(errors="replace") for token in ids}
        ids = [token for token in ids if token not in tokenizer.eos_ids and texts[token].strip()] or ids
        token = min(ids, key=lambda token: (texts[token].startswith(("]", "`")), len(texts[token]), texts[token]))
        calls += texts[token]
        state.accept(token)
    assert calls.count("now-utc") == 16


@pytest.mark.parametrize("inside", [True, False])
def test_json_after_reasoning(tokenizer, inside):
    grammar = json_grammar(WEATHER, tokenizer, THINK, inside)
    thought = f"{'' if inside else THINK.open}\nHm, {{}}\n{THINK.close}\n\n"
    assert allowed(tokenizer, grammar, thought) == (True, False)
    assert allowed(tokenizer, grammar, thought + '{"city": "Bonn", "unit": "°F"}') == (True, True)
    assert allowed(tokenizer, grammar, thought + '{"town"') == (False, False)
    assert allowed(tokenizer, grammar, '{"city": "Bonn", "unit": "°F"}') == (True, not inside)
    assert allowed(tokenizer, json_grammar(WEATHER, tokenizer), '{"city": "Bonn", "unit": "°F"}') == (True, True)


def test_special_tokens_are_written_as_such(tokenizer):
    state = compile_grammar(tokenizer, "lark", tool_grammar(LFM2, TOOLS, tokenizer)).start()
    allowed = allowed_ids(state.allowed(), tokenizer.size).tolist()
    special = tokenizer.token_id("<|tool_call_start|>")
    assert allowed == ([tokenizer.token_id("<")] if special is None else [special])


@pytest.mark.parametrize(
    ("style", "tools", "name", "message"),
    [
        (HERMES, TOOLS, "f", "tool_choice names 'f', which is not in tools"),
        (HERMES, [], None, "tools is empty"),
        (LFM2, {"a b": {}}, None, "tool 'f': the way this model writes tool calls cannot demand the name 'a b'"),
        (QWEN3_CODER, {"a": {"type": "string", "pattern": "x"}}, None, "cannot demand pattern of a text"),
    ],
)
def test_what_cannot_be_demanded(tokenizer, style, tools, name, message):
    if isinstance(tools, dict):
        tools = [{"function": {"name": "f", "parameters": {"type": "object", "properties": tools}}}]
    with pytest.raises(RequestError, match=message):
        tool_grammar(style, tools, tokenizer, name)


@pytest.mark.parametrize("style", [LFM2, QWEN3_CODER])
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"anyOf": [{}, {}]}, "cannot demand anyOf of the parameters"),
        ({"required": ["a"]}, "cannot demand the required parameter 'a', which has no schema"),
    ],
)
def test_parameters_that_cannot_be_demanded_one_by_one(tokenizer, style, parameters, message):
    tools = [{"function": {"name": "f", "parameters": {"type": "object", **parameters}}}]
    with pytest.raises(RequestError, match=message):
        tool_grammar(style, tools, tokenizer)


@pytest.mark.parametrize("style", [HERMES, LLAMA3, MISTRAL_ARGS, LFM2, QWEN3_CODER])
def test_keywords_that_are_not_enforced_are_refused(tokenizer, style):
    parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}, "required": ["a"]}
    tools = [{"function": {"name": "f", "parameters": parameters}}]
    with pytest.raises(RequestError, match='Unimplemented keys: \\["uniqueItems"\\]'):
        compile_grammar(tokenizer, "lark", tool_grammar(style, tools, tokenizer))
