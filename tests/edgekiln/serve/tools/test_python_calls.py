"""Calls in the syntax of Python, compared with ast.literal_eval."""

import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekiln.serve.tools.python_calls import call_of

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(-1e9, 1e9)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)


@given(VALUES)
def test_values_are_those_of_python(value):
    text = repr(value)
    assert ast.literal_eval(text) == value
    assert json.loads(call_of(f"f(a={text})")[1])["a"] == value


@given(VALUES, st.booleans())
def test_values_may_be_json(value, ascii):
    name, arguments = call_of(f" a.b(x={json.dumps(value, ensure_ascii=ascii)}, y = 1)\n")
    assert name == "a.b"
    assert json.loads(arguments) == {"x": value, "y": 1}


def test_names_may_be_words_of_python():
    assert call_of("get-news(from='x', class=1, a-b=[2],)") == ("get-news", '{"from": "x", "class": 1, "a-b": [2]}')


@pytest.mark.parametrize(
    "text",
    ["f", "f(1)", "f(*a)", "f(**a)", "f(a=b)", "f(a=g())", "f(a=1+2)", "f(a=1j)", "f(a=b'x')", "f(a={1: 2})",
     "f(a={**b})", "f(,)", "f(a=1,,b=2)", "f(a)=1)", "f(a=1))", "f(a=1, a=2)", "f(a=-True)", "f(a=1e999)",
     "(lambda: 1)()", "f(a=" + "[" * 150 + "'x'" + "]" * 150 + ")", "f(\x00)", "f(a=...)", "", "import os",
     "f(a=" + "-" * 5000 + "1)"],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_what_is_no_call(text):
    with pytest.raises(ValueError, match=r"."):
        call_of(text)
