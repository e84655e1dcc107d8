"""Marked text: its characters are those of str, and each mark stays with its character."""

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgekiln.runtimes.text.marked_text import MarkedText, concat, given_message, marks_of, own

# Upper-case letters are given, others the template's own: an operation that keeps letters keeps this.
ALPHABET = "abAB x\nßǅ"


def marked(text: str) -> MarkedText:
    return MarkedText(text, bytes(character.isupper() for character in text))


def check(result: object, expected: object) -> None:
    """The same text, or lists of texts, in which the given characters are still marked and no others."""
    if isinstance(expected, list | tuple):
        assert len(result) == len(expected)  # type: ignore[arg-type]
        for one, other in zip(result, expected, strict=True):  # type: ignore[call-overload]
            check(one, other)
        return
    assert isinstance(result, MarkedText)
    assert result == expected
    assert result.marks == bytes(character.isupper() for character in result)


OPERATIONS: dict[str, Callable[[str, str], object]] = {
    "add": lambda a, b: a + b,
    "times": lambda a, _: a * 3,
    "slice": lambda a, _: a[1:4],
    "steps": lambda a, _: a[::-2],
    "characters": lambda a, _: list(a),
    "strip": lambda a, _: a.strip(),
    "strip characters": lambda a, b: a.strip(b),
    "lstrip": lambda a, b: a.lstrip(b or None),
    "rstrip": lambda a, b: a.rstrip(b or None),
    "removeprefix": lambda a, b: a.removeprefix(b),
    "removesuffix": lambda a, b: a.removesuffix(b),
    "replace": lambda a, b: a.replace(b, "yY"),
    "replace once": lambda a, b: a.replace(b, "yY", 1),
    "replace twice": lambda a, b: a.replace(b, "", 2),
    "split": lambda a, b: a.split(b) if b else [],
    "split once": lambda a, b: a.split(b, 1) if b else [],
    "rsplit once": lambda a, b: a.rsplit(b, 1) if b else [],
    "split at white space": lambda a, _: a.split(),
    "split at white space once": lambda a, _: a.split(None, 1),
    "rsplit at white space once": lambda a, _: a.rsplit(None, 1),
    "lines": lambda a, _: a.splitlines(),
    "lines with ends": lambda a, _: a.splitlines(True),
    "partition": lambda a, b: a.partition(b or "a"),
    "rpartition": lambda a, b: a.rpartition(b or "a"),
    "join": lambda a, b: a.join([b, a, b]),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
@given(st.text(ALPHABET, max_size=12), st.text(ALPHABET, max_size=2))
@example("", "")
@example("aAaAa", "A")
@example("aaa", "")
def test_marks_stay_with_their_characters(operation: Callable[[str, str], object], text: str, other: str) -> None:
    expected = operation(text, other)
    if "yY" in str(expected):  # put in by `replace`, as the template's own
        result = operation(marked(text), marked(other))
        assert result == expected
        assert len(result.marks) == len(result)  # type: ignore[attr-defined]
        return
    check(operation(marked(text), marked(other)), expected)


@given(st.text(ALPHABET, max_size=8), st.text(ALPHABET, max_size=8))
def test_formats(first: str, second: str) -> None:
    for template, values in (
        ("a%sb%%%sc", (marked(first), marked(second))),
        ("%(x)s-%(y)s", {"x": marked(first), "y": marked(second)}),
    ):
        result = own(template) % values
        assert result == template % values
        assert result.marks.count(1) == sum(map(str.isupper, first + second))
    assert (own("%d-%s") % (7, "own")).marks == bytes(5)
    assert (own("%5s|") % marked("A")).marks == b"\1\1\1\1\1\0"
    assert (own("%s") % ["A"]).marks == b"\1" * 5


@given(st.text(max_size=8))
def test_letters_of_another_case(text: str) -> None:
    for change in (str.upper, str.lower, str.title, str.capitalize):
        for value in (MarkedText(text), own(text)):
            result = getattr(value, change.__name__)()
            assert result == change(text)
            assert set(result.marks) <= {int(not isinstance(value, MarkedText) or any(value.marks))}


def test_what_is_given() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "x"}], "n": 1}
    marked_message = given_message(message)
    assert marked_message == message
    assert marks_of(marked_message["role"]) == bytes(4)
    assert marked_message["content"][0]["text"].marks == b"\1"
    assert all(marks_of(key) for key in marked_message["content"][0])
    assert marks_of(given_message({"role": "user|>"})["role"]) == b"\1" * 6
    assert marks_of(concat(["a", MarkedText("b")])) == b"\0\1"
    assert type(concat(["a", "b"])) is str
    assert str(MarkedText("a")).marks == b"\1"  # type: ignore[attr-defined]
