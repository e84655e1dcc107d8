"""The choice of the draft length, from simulated times and acceptance."""

import pytest

from edgekiln.runtimes.generate.speculation import Speculation

MOST = 7


def runs(added: float, accepts, count: int, step: float = 0.01) -> tuple[list[int], float]:
    """Draft lengths of `count` runs, and their total time in seconds.

    Args:
        added: time that a drafted token adds to a run, in decode steps.
        accepts: maps the index of a run and its draft length to the number of accepted tokens.
        count: number of runs.
        step: seconds of a decode step.
    """
    speculation = Speculation(MOST)
    lengths, seconds = [], 0.0
    for index in range(count):
        length = speculation.draft_length()
        lengths.append(length)
        took = step * (1 + added * length)
        seconds += took
        speculation.observe(length, min(length, accepts(index, length)), took)
    return lengths, seconds


def test_the_first_run_is_a_plain_step():
    assert Speculation(MOST).draft_length() == 0


def test_full_acceptance_leads_to_the_longest_draft():
    lengths, _ = runs(0.1, lambda _, length: length, 20)
    assert lengths[-1] == MOST
    assert lengths[1:] == sorted(lengths[1:])


def test_no_acceptance_leaves_only_trial_drafts():
    step, count, added = 0.01, 3000, 0.3
    lengths, seconds = runs(added, lambda *_: 0, count, step)
    assert sum(map(bool, lengths[100:])) > 0
    # Every run yields one token, so the time beyond `count` steps is the cost of drafting.
    assert seconds < 1.035 * count * step


@pytest.mark.parametrize("acceptance", [0, 1])
def test_expensive_verification_is_only_tried(acceptance):
    lengths, _ = runs(1.5, lambda _, length: acceptance * length, 3000)
    assert max(lengths[100:]) <= 3
    assert sum(map(bool, lengths[100:])) <= 3000 * 0.03


def test_adapts_to_text_that_starts_to_repeat():
    lengths, _ = runs(0.1, lambda index, length: length if index >= 500 else 0, 600)
    assert max(lengths[450:500]) <= 3
    assert lengths[-1] == MOST


def test_adapts_to_text_that_stops_repeating():
    lengths, _ = runs(0.2, lambda index, length: length if index < 100 else 0, 200)
    assert lengths[99] == MOST
    assert sum(map(bool, lengths[150:])) <= 3


@pytest.mark.parametrize("added", [0.05, 0.2, 0.5])
def test_the_draft_length_maximizes_tokens_per_second(added):
    speculation = Speculation(MOST)
    for index in range(400):
        # Three of four drafted tokens are accepted.
        speculation.observe(0, 0, 1.0)
        speculation.observe(1, int(index % 4 > 0), 1 + added)
    accepted = speculation._acceptance
    rates = [sum(accepted**i for i in range(k + 1)) / (1 + added * k) for k in range(MOST + 1)]
    assert speculation.draft_length() == max(range(MOST + 1), key=rates.__getitem__)


def test_a_limit_of_zero():
    speculation = Speculation(0)
    speculation.observe(0, 0, 1.0)
    assert speculation.draft_length() == 0
