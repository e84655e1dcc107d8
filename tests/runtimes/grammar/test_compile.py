"""Grammars of all kinds, with random answers that they allow, in the tokenizers of the model families."""

import gc
import json
import re
import subprocess
import sys
import weakref

import jsonschema
import numpy as np
import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from edgekiln.engine.manifest import SpecialTokens
from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.runtimes.grammar.compile import compile_grammar, kind_of
from edgekiln.runtimes.sampling.constraint import allowed_ids
from edgekiln.runtimes.sampling.sampler import Sampler, SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.cpp_tokenizers import FAMILIES, code_texts

SCHEMA = {
    "type": "object",
    "properties": {
        'naïve "key"': {"type": "string", "maxLength": 12},
        "count": {"type": "integer", "minimum": 0, "maximum": 9999},
        "kind": {"enum": ["ä", "漢字", "plain", None, 3]},
        "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    },
    "required": ['naïve "key"', "count", "kind", "list"],
    "additionalProperties": False,
}
LENGTH = 400


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request) -> Tokenizer:
    made = FAMILIES[request.param](code_texts(60_000))
    eos = [id_ for text in ("</s>", "<|im_end|>") if (id_ := made.token_to_id(text)) is not None]
    return Tokenizer(made, SpecialTokens(bos=made.token_to_id("<s>"), eos=eos or [made.token_to_id("<s>")]))


@pytest.fixture(scope="module")
def smollm() -> Tokenizer:
    made = FAMILIES["smollm"](code_texts(60_000))
    made.add_tokens([AddedToken("<tool_call>", normalized=False)])
    return Tokenizer(made, SpecialTokens(bos=1, eos=[made.token_to_id("</s>"), made.token_to_id("<|im_end|>")]))


def answer(tokenizer: Tokenizer, constraint, seed: int) -> tuple[str, list[int]]:
    """A random answer. Tokens that close something are likelier, so that it ends."""
    generator = np.random.default_rng(seed)
    sampler = Sampler(SamplingOptions(temperature=1.0, seed=seed), constraint=constraint)
    stream, ids, text = tokenizer.stream(), [], ""
    bias = np.zeros(tokenizer.size + 40, dtype=np.float32)
    for token in range(tokenizer.size):
        bias[token] = 3 * (tokenizer.token_bytes(token)[-1:] in b'"]}0123456789') - 0.2 * len(
            tokenizer.token_bytes(token)
        )
    for _ in range(LENGTH):
        logits = generator.normal(0, 1, bias.size).astype(np.float32) + bias
        sampled = sampler.sample(0, logits)
        ids.append(sampled.token)
        text += stream.push(sampled.token)
        if sampled.ended:
            return text + stream.flush(), ids
    raise AssertionError(f"no end: {text!r}")


@pytest.mark.parametrize("seed", range(4))
def test_json_of_a_schema(tokenizer, seed):
    text, ids = answer(tokenizer, compile_grammar(tokenizer, "json_schema", SCHEMA), seed)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert not any(map(tokenizer.is_special, ids))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "expression",
    ["(yes|no|perhaps)", r"[0-9]{3}-[a-f]{2,4}", r"Zürich( \(日本\))?: e\u0301x", r"<s><\|im_end\|>[^\n]{2,9}"],
)
def test_regular_expressions(tokenizer, expression, seed):
    if expression.startswith("Z") and tokenizer.token_id("<|im_end|>") is None:
        pytest.skip("the vocabulary of odd has neither upper case nor bytes")
    text, ids = answer(tokenizer, compile_grammar(tokenizer, "regex", expression), seed)
    assert re.fullmatch(expression.replace(r"\u0301", "\u0301"), text)
    assert not any(map(tokenizer.is_special, [token for token in ids if token not in tokenizer.eos_ids]))


@pytest.mark.parametrize(
    ("kind", "grammar"),
    [
        ("lark", 'start: "(" start ")" | /[a-z]+/ " "? NUMBER\nNUMBER: /[0-9]/'),
        ("gbnf", 'root ::= "(" root ")" | [a-z]+ " "? number\nnumber ::= [0-9]'),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_context_free_grammars(tokenizer, kind, grammar, seed):
    assert kind_of(grammar) == kind
    text, _ = answer(tokenizer, compile_grammar(tokenizer, kind, grammar), seed)
    inner = text.strip("()")
    assert re.fullmatch("[a-z]+ ?[0-9]", inner)
    depth = (len(text) - len(inner)) // 2
    assert text == "(" * depth + inner + ")" * depth


def test_any_json_object(smollm):
    assert allowed_text(smollm, compile_grammar(smollm, "json_object"), '{"a": [1, {}]}')
    assert not allowed_text(smollm, compile_grammar(smollm, "json_object"), "[1]")


def allowed_text(tokenizer: Tokenizer, constraint, text: str) -> bool:
    state = constraint.start()
    for token in tokenizer.encode(text, add_special_tokens=False).tolist():
        if token not in allowed_ids(state.allowed(), tokenizer.size):
            return False
        state.accept(token)
    return True


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ('{"a":1,"b":2}', True),
        ('{"a": 1, "b": 2}', True),
        ('{\n    "a": 1,\n    "b": 2\n}', True),
        ('{  "a": 1', False),
        ("{\n\n", False),
    ],
)
def test_white_space_is_limited(smollm, text, allowed):
    # Without the schema's x-guidance: a small model would go on with it until the answer is cut.
    assert allowed_text(smollm, compile_grammar(smollm, "json_object"), text) == allowed


def test_a_schema_may_set_the_white_space(smollm):
    grammar = compile_grammar(smollm, "json_schema", {"type": "object", "x-guidance": {"whitespace_flexible": False}})
    assert allowed_text(smollm, grammar, '{"a":1}')
    assert not allowed_text(smollm, grammar, '{"a": 1')


def test_special_tokens_match_only_their_names_in_lark(smollm):
    start, call = smollm.token_id("<|im_start|>"), smollm.token_id("<tool_call>")
    state = compile_grammar(smollm, "lark", "start: <|im_start|> /x/").start()
    assert allowed_ids(state.allowed(), smollm.size).tolist() == [start]
    state = compile_grammar(smollm, "lark", "start: /(.|\\n)*/").start()
    allowed = set(allowed_ids(state.allowed(), smollm.size).tolist())
    assert start not in allowed
    assert call in allowed  # an added token, but ordinary text
    assert allowed >= smollm.eos_ids


def test_an_end_of_sequence_token_ends_a_complete_text(smollm):
    for eos in smollm.eos_ids:
        state = compile_grammar(smollm, "regex", "a+").start()
        assert eos not in allowed_ids(state.allowed(), smollm.size)
        state.accept(smollm.token_id("a"))
        assert eos in allowed_ids(state.allowed(), smollm.size)
        assert not state.ended
        state.accept(eos)
        assert state.ended


def test_an_engine_without_an_end_of_sequence_token():
    tokenizer = Tokenizer(FAMILIES["smollm"](code_texts(60_000)), SpecialTokens(eos=[]))
    state = compile_grammar(tokenizer, "regex", "a{1,2}").start()
    state.accept(tokenizer.token_id("a"))
    assert allowed_ids(state.allowed(), tokenizer.size + 64).tolist() == [tokenizer.token_id("a")]
    state.accept(tokenizer.token_id("a"))
    assert state.ended


def test_ids_without_a_token_are_not_allowed(smollm):
    made = FastTokenizer.from_str(smollm._tokenizer.to_str())
    state = json.loads(made.to_str())
    state["model"]["vocab"]["zzzz"] = 5000
    tokenizer = Tokenizer(FastTokenizer.from_str(json.dumps(state)), smollm.special_tokens)
    assert tokenizer.size == 5001
    allowed = allowed_ids(compile_grammar(tokenizer, "regex", "(?s:.*)").start().allowed(), 6000).tolist()
    assert 5000 in allowed
    assert all(tokenizer.token(token) is not None for token in allowed)


def test_a_tokenizer_is_not_kept_and_its_grammars_live_on():
    tokenizer = Tokenizer(FAMILIES["llama2"](code_texts(60_000)), SpecialTokens(eos=[2]))
    grammar, dead = compile_grammar(tokenizer, "regex", "abc|def"), weakref.ref(tokenizer)
    first, size = tokenizer.token_id("a"), tokenizer.size
    del tokenizer
    gc.collect()
    assert dead() is None
    state = grammar.start()
    assert first in allowed_ids(state.allowed(), size)
    state.accept(first)
    assert allowed_ids(state.allowed(), size).size


def test_answers_share_a_grammar(smollm):
    grammar = compile_grammar(smollm, "regex", "ab|cd")
    first, second = grammar.start(), grammar.start()
    first.accept(smollm.token_id("a"))
    second.accept(smollm.token_id("c"))
    assert allowed_ids(first.allowed(), smollm.size).tolist() == [smollm.token_id("b")]
    assert allowed_ids(second.allowed(), smollm.size).tolist() == [smollm.token_id("d")]
    assert compile_grammar(smollm, "regex", "ab|cd") is grammar


@pytest.mark.parametrize(
    ("kind", "grammar", "message"),
    [
        ("json_schema", {"not": {}}, r'the JSON schema cannot be used \(Unimplemented keys: \["not"\]\): correct it'),
        ("json_schema", {"x-guidance": {"lenient": True}, "not": {}}, 'Unimplemented keys: \\["not"\\]'),
        ("json_schema", {"x-guidance": 5}, "x-guidance of the JSON schema must be an object, got 5"),
        ("json_schema", {"x-guidance": {"whitespace": 5}}, "unknown field `whitespace`"),
        ("json_schema", {"type": "string", "format": "x"}, "Unknown format: x"),
        ("json_schema", {"type": "text"}, "Invalid type: text"),
        ("json_schema", {"$ref": "https://example.com/x"}, "not present in a registry"),
        ("json_schema", {"minimum": 5, "maximum": 2, "type": "integer"}, "minimum \\(5\\) is greater than maximum"),
        ("json_schema", {"pattern": "(", "type": "string"}, "unclosed group"),
        ("json_schema", '{"type": ', "it is not JSON: Expecting value"),
        ("json_schema", "[1]", "it must be a JSON object"),
        ("json_schema", [1], r"a JSON schema must be an object, got \[1\]"),
        ("json_schema", {"maximum": float("nan")}, "not of JSON's types"),
        ("json_schema", {"enum": [{1, 2}]}, "not of JSON's types"),
        ("regex", "a(", r'the regular expression .* \(line 1: invalid regex "a\(": unclosed group\): correct it'),
        ("regex", "(?=a)", "look-around, including look-ahead and look-behind, is not supported"),
        ("regex", 3, "a grammar must be text, got 3"),
        ("regex", "\ud800", "the text is not UTF-8"),
        ("lark", "start: foo", r'the grammar cannot be used \(line 1: unknown name: "foo"\): correct it'),
        ("lark", "", "Empty grammar"),
        ("lark", "x: /a/", "no start rule found"),
        ("lark", "start: <|nope|>", r'\(line 1: unknown special token: "<\|nope\|>"\)'),
        ("gbnf", 'root ::= "a', "Unexpected end of input at line 1"),
        ("gbnf", "root ::= foo", "Rule 'foo' not found"),
        ("xml", "", "the kind of a grammar must be one of json_object, json_schema, regex, lark, gbnf, .*got xml"),
    ],
)
def test_grammars_that_are_refused(smollm, kind, grammar, message):
    with pytest.raises(RequestError, match=message) as refused:
        compile_grammar(smollm, kind, grammar)
    assert "\n" not in str(refused.value)


def test_a_grammar_without_a_text(smollm):
    state = compile_grammar(smollm, "lark", 'start: start "a"').start()
    with pytest.raises(EdgekilnError, match="no token of the engine continues the text as the grammar asks"):
        state.allowed()


def test_a_text_that_the_vocabulary_cannot_spell():
    made = FAMILIES["odd"](["abc abd bcd"] * 50)
    tokenizer = Tokenizer(made, SpecialTokens(eos=[made.token_to_id("<s>")]))
    sampler = Sampler(SamplingOptions(), constraint=compile_grammar(tokenizer, "regex", "漢字"))
    with pytest.raises(EdgekilnError, match=r"no token of the engine|allows no token"):
        sampler.sample(0, np.zeros(tokenizer.size, dtype=np.float32))


def test_a_token_that_may_not_follow(smollm):
    state = compile_grammar(smollm, "regex", "ab").start()
    with pytest.raises(EdgekilnError, match="the grammar does not allow token"):
        state.accept(smollm.token_id("z"))


def test_a_missing_library_names_the_extra_to_install():
    script = """
import sys
sys.modules["llguidance"] = None
from tokenizers import Tokenizer as FastTokenizer, models
from edgekiln.engine.manifest import SpecialTokens
from edgekiln.errors import EdgekilnError
from edgekiln.runtimes.grammar.compile import compile_grammar
from edgekiln.runtimes.text.tokenizer import Tokenizer
try:
    compile_grammar(Tokenizer(FastTokenizer(models.BPE()), SpecialTokens(eos=[])), "regex", "a")
except EdgekilnError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "llguidance is not installed: `pip install 'edgekiln[grammar]'`"
