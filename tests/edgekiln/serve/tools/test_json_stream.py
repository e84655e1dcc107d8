"""JSON as it arrives, compared with Python's json."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekiln.serve.tools.json_stream import JsonStream


def complete(text: str) -> bool:
    """Whether a text is an object or a list of JSON; the number of its characters is known at the last one."""
    stream = JsonStream()
    for character in text:
        assert not stream.ended
        stream.push(character)
    return stream.ended


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), VALUES) | st.lists(VALUES), st.booleans(), st.sampled_from([None, 0, 2]))
def test_json_is_json(value, ascii, indent):
    assert complete(json.dumps(value, ensure_ascii=ascii, indent=indent))


@given(st.text(alphabet='{}[]",:\\u1-+.eEtrufalsn \n\x01', max_size=12), st.sampled_from("[{"))
def test_what_json_loads_refuses_is_refused(rest, first):
    text = first + rest
    try:
        expected, size = True, json.JSONDecoder().raw_decode(text)[1]
    except ValueError:
        expected, size = False, len(text)
    stream = JsonStream()
    try:
        for character in text[:size]:
            stream.push(character)
        found = stream.ended
    except ValueError:
        found = False
    assert found == expected


@pytest.mark.parametrize("text", ["[NaN]", "[01]", '["\\x"]', "[1,]", "{,}", "[}", '{"a" 1}', '["\n"]', "]"])
def test_wrong_text(text):
    with pytest.raises(ValueError, match=r"."):
        complete(text)


def test_too_many_containers():
    assert not complete("[" * 200)
    with pytest.raises(ValueError, match="more than 200"):
        complete("[" * 201)
