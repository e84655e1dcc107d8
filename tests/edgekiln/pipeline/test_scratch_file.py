"""Arrays of a build on disk: what is read back, and what stays in memory."""

import os
from pathlib import Path

import numpy as np
import pytest

from edgekiln.pipeline.scratch_file import ScratchFile


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.float32])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (7, 1000), (2, 3, 5, 100)])
def test_arrays_are_read_back(shape: tuple[int, ...], dtype: type, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = [(random.standard_normal(shape) * 50).astype(dtype) for _ in range(3)]
    with ScratchFile(tmp_path) as scratch:
        readers = [scratch.keep(array) for array in arrays]
        for array, read in reversed(list(zip(arrays, readers, strict=True))):
            for _ in range(2):
                found = read()
                assert (found.dtype, found.shape) == (array.dtype, array.shape)
                np.testing.assert_array_equal(found, array)


def test_arrays_of_any_memory_order(tmp_path: Path) -> None:
    array = np.arange(10000, dtype=np.float32).reshape(100, 100)
    with ScratchFile(tmp_path) as scratch:
        for view in (array.T, array[::2, ::3], np.asfortranarray(array)):
            np.testing.assert_array_equal(scratch.keep(view)(), view)


def test_memory_does_not_hold_arrays(tmp_path: Path) -> None:
    """A change after `keep` would show in an array that memory holds."""
    array = np.zeros(1000, dtype=np.float32)
    with ScratchFile(tmp_path) as scratch:
        read = scratch.keep(array)
        array[:] = 1
        assert not read().any()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no files without a name")
def test_the_file_has_no_name(tmp_path: Path) -> None:
    with ScratchFile(tmp_path) as scratch:
        scratch.keep(np.zeros(10000))
        assert not list(tmp_path.iterdir())
