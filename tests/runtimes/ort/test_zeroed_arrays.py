"""Memory of large arrays that are used in part: small pages, and pages that are dropped."""

import numpy as np
import psutil
import pytest

from edgekiln.runtimes.ort.zeroed_arrays import release_pages, use_small_pages

SIZE = 256 << 20
SLICES = 64


def resident() -> int:
    return psutil.Process().memory_info().rss


@pytest.mark.skipif(not psutil.LINUX, reason="pages are advised on Linux")
def test_pages_are_taken_when_they_are_written_and_given_back() -> None:
    array = np.zeros((SLICES, SIZE // SLICES), np.uint8)
    use_small_pages(array)
    before = resident()
    array[:, 0] = 1
    assert resident() - before < SIZE // 16
    array[:] = 1
    assert resident() - before > SIZE * 3 // 4
    release_pages(array[: SLICES // 2])
    assert resident() - before < SIZE * 3 // 4
    assert not array[1 : SLICES // 2 - 1].any()
    assert array[SLICES // 2 :].all()


def test_small_arrays_keep_their_values() -> None:
    array = np.ones(100, np.float32)
    release_pages(array)
    use_small_pages(array)
    assert array.all()
