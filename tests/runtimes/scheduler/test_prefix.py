"""Which tokens of an earlier prompt a prompt takes over: those that its own runs would have computed alike."""

import numpy as np
import pytest

from edgekiln.runtimes.scheduler.prefix import PrefixRules, common_prefix

RULES = [PrefixRules(256, (9, 96)), PrefixRules(256, (9,)), PrefixRules(100, (9, 96)), PrefixRules(5, (9, 96))]


@pytest.mark.parametrize(
    ("first", "second", "common"), [([1, 2, 3], [1, 2, 4], 2), ([1], [2], 0), ([], [1], 0), ([1, 2], [1, 2, 3], 2)]
)
def test_common_prefix(first: list[int], second: list[int], common: int) -> None:
    assert common_prefix(np.array(first, np.int64), np.array(second, np.int64)) == common


@pytest.mark.parametrize("rules", RULES)
def test_tokens_that_are_taken_over_and_the_other_runs_have_the_classes_of_a_prompt_alone(rules: PrefixRules) -> None:
    generator = np.random.default_rng(0)
    reused = 0
    for _ in range(2000):
        earlier, length = (int(each) for each in generator.integers(1, 700, 2))
        common = int(generator.integers(0, min(earlier, length) + 1))
        held = rules.classes(earlier)
        start = rules.reusable(common, held, length)
        assert 0 <= start <= min(common, length - 1)
        runs = rules.runs(start, length)
        assert sum(runs) == length - start
        assert max(runs) <= rules.chunk
        classes = np.concatenate([held[:start], *(np.full(size, rules.run_class(size), np.int8) for size in runs)])
        np.testing.assert_array_equal(classes, rules.classes(length))
        reused += start
    assert reused > 0


def test_a_prompt_that_begins_like_an_earlier_one_takes_nearly_all_of_it_over() -> None:
    rules = PrefixRules(256, (9, 96))
    assert rules.reusable(200, rules.classes(300), 450) == 200
    assert rules.reusable(300, rules.classes(300), 400) == 256  # the earlier one's last 44 were a short run
    assert rules.reusable(512, rules.classes(512), 512) == 416  # the last run has 96 tokens at least
    assert rules.reusable(40, rules.classes(60), 50) == 40
    assert rules.reusable(45, rules.classes(60), 50) == 41  # of 9 at least


def test_any_token_is_taken_over_where_the_runtime_gives_no_run_sizes() -> None:
    rules = PrefixRules(64, ())
    assert rules.reusable(150, rules.classes(150), 151) == 150
    assert rules.reusable(150, rules.classes(150), 150) == 149
    assert rules.runs(20, 200) == [64, 64, 52]


def test_runs_are_cut_into_runs_of_their_class() -> None:
    rules = PrefixRules(256, (9, 96))
    assert [rules.part(size, 128) for size in (256, 250, 200, 128, 100, 60, 1)] == [128, 128, 200, 128, 100, 60, 1]
    assert [rules.part(size, 20) for size in (256, 60, 25, 8)] == [256, 20, 25, 8]
    assert PrefixRules(256, ()).part(256, 20) == 20
