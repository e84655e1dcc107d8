"""Files at paths that are not UTF-8 have UTF-8 names while they are opened."""

import os
from pathlib import Path

import pytest

from edgekiln.engine import utf8_path as module
from edgekiln.engine.utf8_path import is_utf8, utf8_path
from edgekiln.errors import EngineError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    directory.mkdir()
    (directory / "file").write_text("x")
    return directory / "file"


def test_utf8_paths_are_their_own_names(tmp_path: Path) -> None:
    with utf8_path(tmp_path / "é") as name:
        assert name == str(tmp_path / "é")


def test_other_paths_go_through_a_descriptor(file: Path) -> None:
    assert not is_utf8(file)
    with utf8_path(file) as name:
        name.encode("utf-8")
        assert Path(name).read_text() == "x"
    assert not Path(name).exists()


def test_without_proc_the_path_is_the_reason(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DESCRIPTORS", Path("/no/such/directory"))
    with pytest.raises(EngineError, match=r"the path .* is not UTF-8, .*: rename the directory"), utf8_path(file):
        pytest.fail("the block must not run")
