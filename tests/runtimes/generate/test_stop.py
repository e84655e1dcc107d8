"""StopMatcher on bytes split into tokens, compared with a search in the whole text."""

from hypothesis import example, given
from hypothesis import strategies as st

from edgekiln.runtimes.generate.stop import StopMatcher

LETTERS = st.text("abc", min_size=1, max_size=4)


def run(stop: tuple[str, ...], pieces: list[bytes]) -> tuple[list[bytes], bool]:
    """The bytes that are let go at each token, and at the end; and whether there was a stop string."""
    matcher, shown, held = StopMatcher(stop), [], list[bytes]()
    for piece in pieces:
        held.append(piece)
        count, cut = matcher.push(piece)
        shown.append(b"".join(held[:count]))
        del held[:count]
        if cut is not None:
            return [*shown, held[0][:cut]], True
    return [*shown, b"".join(held)], False


def test_tokens_that_may_start_a_stop_string_are_held_back():
    pieces = [b"a\n", b"\nUse", b"d E", b"N", b"D!"]
    assert run(("\n\nUser:", "END"), pieces) == ([b"", b"", b"a\n\nUse", b"", b"", b"d "], True)
    assert run(("END",), [b"E", b"N"]) == ([b"", b"", b"EN"], False)
    assert run(("END",), [b"E", b"", b"x"]) == ([b"", b"", b"Ex", b""], False)


def test_a_character_may_be_split_by_tokens():
    assert run(("日",), [b"a\xe6", b"\x97", b"", b"\xa5b"]) == ([b"", b"", b"", b"", b"a"], True)
    assert run(("日",), [b"a\xe6", b"\x97", b"\xa6"]) == ([b"", b"", b"a\xe6\x97\xa6", b""], False)


@given(st.lists(LETTERS, min_size=1, max_size=3).map(tuple), st.lists(st.text("abc", max_size=5), max_size=8))
@example(("abc", "b"), ["a", "b", "c"])
@example(("aab",), ["aa", "ab"])
def test_the_result_does_not_depend_on_how_text_is_split(stop, pieces):
    text = "".join(pieces)
    ends = [end for end in range(len(text) + 1) if text[:end].endswith(stop)]
    shown, stopped = run(stop, [piece.encode() for piece in pieces])
    assert stopped == bool(ends)
    if ends:
        first = text[: ends[0]]
        longest = max(len(one) for one in stop if first.endswith(one))
        assert b"".join(shown).decode() == first[: len(first) - longest]
    else:
        assert b"".join(shown).decode() == text
