"""Files of sequences: what comes back, and files that are damaged or of another engine."""

from pathlib import Path

import numpy as np
import pytest

from edgekiln.errors import RequestError
from edgekiln.runtimes.saved_sequence import SavedSequence, read_header, read_sequence, write_sequence

SAVED = SavedSequence(np.arange(5), 7, [np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(3, dtype=np.int8)])


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.sequence"
    write_sequence(path, "key", SAVED, {"messages": ["é"]})
    saved, notes = read_sequence(path, "key")
    np.testing.assert_array_equal(saved.tokens, SAVED.tokens)
    assert (saved.length, notes, saved.nbytes) == (7, {"messages": ["é"]}, 27)
    for found, expected in zip(saved.arrays, SAVED.arrays, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert [file.name for file in tmp_path.iterdir()] == ["a.sequence"]


def test_no_arrays(tmp_path: Path) -> None:
    write_sequence(tmp_path / "a", "key", SavedSequence(np.zeros(0, np.int64), 0, []), {})
    assert read_sequence(tmp_path / "a", "key")[0].arrays == []


def test_another_engine(tmp_path: Path) -> None:
    write_sequence(tmp_path / "a", "key", SAVED, {})
    with pytest.raises(RequestError, match=r"a was saved with another engine or other kernels: save it again"):
        read_sequence(tmp_path / "a", "other")


@pytest.mark.parametrize("change", [0, 10, 25, 40, 200, -1])
def test_a_byte_that_changed_is_noticed(tmp_path: Path, change: int) -> None:
    path = tmp_path / "a"
    write_sequence(path, "key", SAVED, {"some": "notes"})
    data = bytearray(path.read_bytes())
    data[change] ^= 0x41
    path.write_bytes(data)
    with pytest.raises(RequestError, match=r"damaged: delete it|not a saved sequence|another engine"):
        read_sequence(path, "key")


@pytest.mark.parametrize("length", [0, 10, 27, 60, -1, -20])
def test_a_file_that_was_cut(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a"
    write_sequence(path, "key", SAVED, {})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RequestError, match=r"damaged: delete it|not a saved sequence"):
        read_header(path)


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot write .*: No such file or directory"):
        write_sequence(tmp_path / "no" / "a", "key", SAVED, {})
    with pytest.raises(RequestError, match=r"cannot read .*: No such file or directory"):
        read_sequence(tmp_path / "a", "key")


@pytest.mark.parametrize("arrays", ['[["|O", [2]]]', '[["<f4", [-4]]]', '[["<f4", [0.5]]]', '[["nothing", [1]]]', "5"])
def test_arrays_that_no_cache_has(tmp_path: Path, arrays: str) -> None:
    text = f'{{"key": "key", "tokens": [], "length": 0, "arrays": {arrays}, "sha256": "", "notes": {{}}}}'.encode()
    data = b"edgekiln sequence 1\n" + len(text).to_bytes(8, "little") + text
    (tmp_path / "a").write_bytes(data + bytes(-len(data) % 64 + 16))
    with pytest.raises(RequestError, match=r"damaged: delete it"):
        read_sequence(tmp_path / "a", "key")
