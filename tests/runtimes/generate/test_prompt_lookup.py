"""PromptLookup, compared with a search through the whole sequence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekiln.runtimes.generate.prompt_lookup import PromptLookup

# Few different tokens, so that n-grams repeat.
TOKENS = st.lists(st.integers(0, 2), max_size=40)


def searched(tokens: list[int], most: int) -> list[int]:
    for size in (3, 2):
        end = tokens[-size:]
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == end:
                return tokens[start + size :][:most]
    return []


@given(TOKENS, TOKENS, st.integers(0, 9))
def test_drafts_equal_those_of_a_full_search(prompt, answer, most):
    lookup = PromptLookup(np.array(prompt, dtype=np.int64))
    for length in range(len(answer) + 1):
        if length:
            lookup.append(answer[length - 1])
        assert lookup.draft(most) == searched(prompt + answer[:length], most)


@pytest.mark.parametrize(
    ("tokens", "draft"),
    [
        ([], []),
        ([1], []),
        ([1, 1], []),
        ([1, 1, 1], [1]),
        ([1, 2, 3, 1, 2], [3, 1, 2]),
        ([9, 1, 2, 5, 1, 2, 6, 9, 1, 2], [5, 1, 2, 6, 9, 1, 2]),  # a match of 3 tokens wins over a later one of 2
        ([1, 2, 5, 1, 2, 6, 3, 1, 2], [6, 3, 1, 2]),
    ],
)
def test_drafts_of_examples(tokens, draft):
    assert PromptLookup(np.array(tokens, dtype=np.int64)).draft(9) == draft
