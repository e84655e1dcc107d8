"""Temporary paths are removed by who made them, or by the next process after a SIGKILL; never while they are used."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgekiln.engine import temporary
from edgekiln.engine.temporary import scratch_directory, temporary_directory, temporary_file
from edgekiln.errors import EngineError

_HOLDER = """
import sys, time
from pathlib import Path
from edgekiln.engine.temporary import scratch_directory, temporary_file
with scratch_directory() as directory, temporary_file(Path(sys.argv[1])) as file:
    (directory / "weights.bin").write_text("x")
    print(directory, file, sep="\\n", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary directory, also of processes that are started."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return directory


def holder(file: Path) -> tuple["subprocess.Popen[str]", list[Path]]:
    """A process with a scratch directory and a temporary file, and both."""
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, [Path(process.stdout.readline().strip()) for _ in range(2)]


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def use(file: Path) -> None:
    with scratch_directory() as directory, temporary_file(file) as written:
        assert directory.is_dir()
        assert written.is_file()
    assert not directory.exists()
    assert not written.exists()


def test_leftovers_are_removed_when_their_process_has_ended(tmpdir: Path, tmp_path: Path) -> None:
    process, left = holder(tmp_path / "page")
    use(tmp_path / "page")
    assert all(path.exists() for path in left)
    kill(process)
    assert all(path.exists() for path in left)
    use(tmp_path / "other")
    assert [path.exists() for path in left] == [False, True]  # the directory is of no name, the file is of "page"
    use(tmp_path / "page")
    assert not any(path.exists() for path in left)
    assert os.listdir(tmpdir) == []


def test_other_paths_are_left_alone(tmpdir: Path, tmp_path: Path) -> None:
    names = ["edgekiln-tmp-x", "edgekiln-testdata", "edgekiln-tmp-12345678.txt", "edgekiln-tmp-ABCDEFGH"]
    for name in names:
        (tmpdir / name).mkdir()
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "file").write_text("mine")
    (tmpdir / "edgekiln-tmp-linklink").symlink_to(tmp_path / "users")
    use(tmp_path / "page")
    assert sorted(os.listdir(tmpdir)) == sorted([*names, "edgekiln-tmp-linklink"])
    assert (tmp_path / "users" / "file").read_text() == "mine"


def test_replaced_directories_are_kept_while_nothing_has_their_place(tmp_path: Path) -> None:
    old = tmp_path / ".engine.edgekiln-tmp-abcdefgh.old"
    old.mkdir()
    with temporary_directory(tmp_path / "engine"):
        assert old.exists()
    (tmp_path / "engine").mkdir()
    with temporary_directory(tmp_path / "engine"):
        assert not old.exists()


def test_without_locks_nothing_is_removed(tmpdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    (tmpdir / "edgekiln-tmp-abcdefgh").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(temporary.fcntl, "flock", flock)
        use(tmp_path / "page")
    with monkeypatch.context() as patch:
        patch.setattr(temporary, "fcntl", None)
        use(tmp_path / "page")
    assert os.listdir(tmpdir) == ["edgekiln-tmp-abcdefgh"]
    use(tmp_path / "page")
    assert os.listdir(tmpdir) == []


def test_errors_in_scratch_directories(tmpdir: Path) -> None:
    sentence = f"cannot write temporary files in {tmpdir}: No space left .*, set TMPDIR"
    with pytest.raises(EngineError, match=sentence), scratch_directory():
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ValueError, match=r"^cannot load TMPDIR/reference/generate.onnx$"), scratch_directory() as found:
        raise ValueError(f"cannot load {found}/reference/generate.onnx")
    with pytest.raises(FileNotFoundError, match="/no/such/file"), scratch_directory():
        Path("/no/such/file").read_text()
