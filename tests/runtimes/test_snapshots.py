"""Which snapshots of a sequence are kept; cpp/tests/lib/kv_cache_test.cpp has the same lengths."""

import numpy as np
import pytest

from edgekiln.runtimes.snapshots import INTERVAL, MOST, Snapshots


def of(*lengths: int, prompt_end: int = 0) -> Snapshots:
    snapshots = Snapshots()
    snapshots.end_prompt(prompt_end)
    for length in lengths:
        snapshots.add(length, [np.array([length])])
    return snapshots


def test_the_latest_snapshot_at_or_before_a_length() -> None:
    snapshots = of(10, 600, 601)
    found = {length: snapshots.latest(length) for length in (0, 9, 10, 11, 599, 600, 601, 9999)}
    assert found == {0: 0, 9: 0, 10: 10, 11: 10, 599: 10, 600: 600, 601: 601, 9999: 601}
    assert snapshots.at(11) is None
    snapshot = snapshots.at(600)
    assert snapshot is not None
    assert snapshot.states[0] == 600


def test_one_is_due_every_512_tokens() -> None:
    assert not of().due(511)
    assert of().due(512)
    assert not of(100).due(611)
    assert of(100).due(612)


def test_a_rewind_drops_the_later_ones() -> None:
    snapshots = of(10, 600, 601)
    snapshots.drop_after(600)
    assert snapshots.lengths == [10, 600]
    snapshots.drop_after(9)
    assert snapshots.lengths == []


@pytest.mark.parametrize(
    ("lengths", "prompt_end", "left"),
    [
        # The smallest gap is that from 0 to 15, then that around 501; the newest is never dropped.
        ((10, 15, 30, 100, 200, 300, 400, 500, 501), 0, [15, 30, 100, 200, 300, 400, 500, 501]),
        ((10, 15, 30, 100, 200, 300, 400, 500, 501, 502), 0, [15, 30, 100, 200, 300, 400, 500, 502]),
        ((100, 200, 300, 400, 500, 600, 700, 800, 900), 0, [200, 300, 400, 500, 600, 700, 800, 900]),
        ((100, 200, 300, 400, 500, 600, 700, 800, 900), 100, [100, 300, 400, 500, 600, 700, 800, 900]),
        ((1, 2, 3, 4, 5, 6, 7, 8, 9), 1, [1, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_the_smallest_gap_goes_first(lengths: tuple[int, ...], prompt_end: int, left: list[int]) -> None:
    assert of(*lengths, prompt_end=prompt_end).lengths == left


def test_a_long_sequence_keeps_snapshots_of_all_its_parts() -> None:
    snapshots = of()
    for length in range(INTERVAL, 200 * INTERVAL, INTERVAL):
        snapshots.add(length, [])
    kept = [0, *snapshots.lengths]
    assert len(kept) == MOST + 1
    assert max(np.diff(kept)) <= 2 * 200 * INTERVAL / MOST
