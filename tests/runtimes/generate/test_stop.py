"""StopMatcher on split text, compared with a search in the whole text."""

from hypothesis import example, given
from hypothesis import strategies as st

from edgekiln.runtimes.generate.stop import StopMatcher

LETTERS = st.text("abc", min_size=1, max_size=4)


def run(stop: tuple[str, ...], pieces: list[str]) -> tuple[list[str], bool]:
    matcher, shown = StopMatcher(stop), []
    for piece in pieces:
        text, stopped = matcher.push(piece)
        shown.append(text)
        if stopped:
            return shown, True
    return [*shown, matcher.flush()], False


def test_a_partial_stop_sequence_is_held_back():
    assert run(("\n\nUser:", "END"), ["a\n", "\nUse", "d E", "N", "D!"]) == (["a", "", "\n\nUsed ", "", ""], True)
    assert run(("END",), ["E", "N"]) == (["", "", "EN"], False)
    assert run((), ["END", ""]) == (["END", "", ""], False)


@given(st.lists(LETTERS, min_size=1, max_size=3).map(tuple), st.lists(st.text("abc", max_size=5), max_size=8))
@example(("abc", "b"), ["a", "b", "c"])
@example(("aab",), ["aa", "ab"])
def test_the_result_does_not_depend_on_how_text_is_split(stop, pieces):
    text = "".join(pieces)
    ends = [end for end in range(len(text) + 1) if text[:end].endswith(stop)]
    shown, stopped = run(stop, pieces)
    assert stopped == bool(ends)
    if ends:
        first = text[: ends[0]]
        longest = max(len(one) for one in stop if first.endswith(one))
        assert "".join(shown) == first[: len(first) - longest]
    else:
        assert "".join(shown) == text
