"""A number in JSON ends, in whatever tokens it is written, and all 64-bit numbers can be written."""

import json
import sys

import numpy as np
import pytest

from edgekiln.engine.manifest import SpecialTokens
from edgekiln.runtimes.grammar.compile import compile_grammar
from edgekiln.runtimes.sampling.constraint import allowed_ids
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.cpp_tokenizers import FAMILIES, code_texts


@pytest.fixture(scope="module", params=["smollm", "llama3", "gemma"])
def tokenizer(request) -> Tokenizer:
    made = FAMILIES[request.param](code_texts(60_000))
    return Tokenizer(made, SpecialTokens(eos=[made.token_to_id("</s>") or made.token_to_id("<s>")]))


def written(tokenizer: Tokenizer, constraint, text: str, most: int = 200) -> str:
    """The text of an answer that goes on with digits wherever it may, after it began with `text`."""
    state, answer = constraint.start(), b""
    forced = tokenizer.encode(text, add_special_tokens=False).tolist()
    texts = [tokenizer.token_bytes(token) for token in range(tokenizer.size)]
    for _ in range(most):
        if state.ended:
            return answer.decode()
        ids = allowed_ids(state.allowed(), tokenizer.size).tolist()
        digits = [token for token in ids if texts[token].isdigit()]
        token = (
            forced.pop(0)
            if forced
            else max(digits, key=lambda token: (texts[token][:1] == b"1", len(texts[token])), default=None)
        )
        if token is None:
            token = min(ids, key=lambda token: (token not in tokenizer.eos_ids, not texts[token].strip(), token))
        assert token in ids
        state.accept(token)
        answer += b"" if token in tokenizer.eos_ids else texts[token]
    return answer.decode()


@pytest.mark.parametrize("schema", [{"type": "integer"}, {"type": "number"}, {"type": "number", "minimum": 0.5}, {}])
@pytest.mark.parametrize("start", ["1", "1.5", "12e5"])
def test_numbers_end(tokenizer, schema, start):
    constraint = compile_grammar(tokenizer, "json_schema", schema)
    if not fits(tokenizer, constraint, start):
        pytest.skip("no number of this schema")
    text = written(tokenizer, constraint, start)
    assert 24 <= len(text) <= 32
    json.loads(text)


def fits(tokenizer: Tokenizer, constraint, text: str) -> bool:
    state = constraint.start()
    for token in tokenizer.encode(text, add_special_tokens=False).tolist():
        if state.ended or token not in allowed_ids(state.allowed(), tokenizer.size):
            return False
        state.accept(token)
    return True


@pytest.mark.parametrize(
    "value", [-(2**63), 2**64 - 1, sys.float_info.max, -sys.float_info.min, -2.2250738585072014e-308]
)
def test_64_bit_numbers_can_be_written(tokenizer, value):
    constraint = compile_grammar(tokenizer, "json_schema", {"type": "object"})
    assert fits(tokenizer, constraint, json.dumps({"a": [value, value]}))


@pytest.mark.parametrize(
    "text", ['{"a": "' + "1" * 60 + '", "\\"' + "2" * 60 + '": 5}', '{"\\\\": 7, "b": "' + "3" * 60]
)
def test_digits_in_texts_are_not_limited(tokenizer, text):
    assert fits(tokenizer, compile_grammar(tokenizer, "json_schema", {"type": "object"}), text)


def test_numbers_after_texts_are_limited(tokenizer):
    constraint = compile_grammar(tokenizer, "json_schema", {"type": "object"})
    assert fits(tokenizer, constraint, '{"a\\"": ' + "1" * 20)
    assert not fits(tokenizer, constraint, '{"a\\"": ' + "1" * 40)


def test_a_number_that_cannot_end_goes_on(tokenizer):
    value = "1" + "0" * 40
    assert written(tokenizer, compile_grammar(tokenizer, "json_schema", {"enum": [int(value), 3]}), "") == value


def test_other_grammars_have_no_limit(tokenizer):
    value = "1" * 60
    assert fits(tokenizer, compile_grammar(tokenizer, "regex", "[0-9]+"), value)
    lark = 'start: "it\'s \\"" /\\n/ %json {"type": "integer"}'
    for kind, allowed in (("lark", True), ("json_in_lark", False)):
        assert fits(tokenizer, compile_grammar(tokenizer, kind, lark), f"it's \"\n{value}") == allowed


def test_masks_of_answers_are_their_own(tokenizer):
    constraint = compile_grammar(tokenizer, "json_schema", {"type": "integer"})
    first, second = constraint.start(), constraint.start()
    for token in tokenizer.encode("1" * 30, add_special_tokens=False).tolist():
        if token in allowed_ids(first.allowed(), tokenizer.size):
            first.accept(token)
    ones = [token for token in range(tokenizer.size) if tokenizer.token_bytes(token).isdigit()]
    assert not np.isin(ones, allowed_ids(first.allowed(), tokenizer.size)).any()
    assert np.isin(ones, allowed_ids(second.allowed(), tokenizer.size)).any()
