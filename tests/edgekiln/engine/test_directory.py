"""An engine is written atomically, and an output that cannot be replaced is refused before it is written."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgekiln.engine import directory as engine_directory
from edgekiln.engine.directory import ENGINE_FILE, atomic_directory, write_json
from edgekiln.errors import EngineError


def fill(directory: Path, name: str = "tiny") -> None:
    (directory / "generate.onnx").write_text("graph")
    (directory / ENGINE_FILE).write_text(name)


def name(directory: Path) -> str:
    return (directory / ENGINE_FILE).read_text()


def refused(output: Path, match: str, reads: tuple[Path, ...] = ()) -> None:
    """An output is refused before the block runs."""
    with pytest.raises(EngineError, match=match), atomic_directory(output, reads=reads):
        pytest.fail("the block must not run")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    directory = tmp_path / "engine"
    directory.mkdir()
    fill(directory)
    return directory


def test_a_new_directory_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "engine"
    with atomic_directory(target) as directory:
        assert directory.parent == target.parent
        fill(directory)
        assert not target.exists()
    assert name(target) == "tiny"
    assert os.listdir(target.parent) == ["engine"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_an_engine_is_replaced_only_at_the_end(engine: Path) -> None:
    (engine / "leftover").write_text("of the old one")
    with atomic_directory(engine) as directory:
        fill(directory, "new")
        assert name(engine) == "tiny"
    assert name(engine) == "new"
    assert not (engine / "leftover").exists()
    assert os.listdir(engine.parent) == ["engine"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_a_failure_leaves_the_old_engine(engine: Path, error: BaseException) -> None:
    def build() -> None:
        with atomic_directory(engine) as directory:
            fill(directory, "new")
            raise error

    with pytest.raises(type(error)):
        build()
    assert name(engine) == "tiny"
    assert os.listdir(engine.parent) == ["engine"]


def test_an_empty_directory_is_a_target(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "empty") as directory:
        fill(directory)
    (tmp_path / "other").mkdir()
    with atomic_directory(tmp_path / "other") as directory:
        fill(directory)
    assert name(tmp_path / "other") == "tiny"


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_target_that_is_not_an_engine_is_kept(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "thesis"
    if kind == "directory":
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
    else:
        target.write_text("years of work")
    with pytest.raises(EngineError, match="exists and is not an engine directory"), atomic_directory(target):
        pytest.fail("the block must not run")
    file = target / "thesis.txt" if kind == "directory" else target
    assert file.read_text() == "years of work"
    assert os.listdir(tmp_path) == ["thesis"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space left on the disk"),
        (errno.EDQUOT, "no space left on the disk"),
        (errno.EROFS, "cannot write .*Read-only file system"),
        (errno.EACCES, "cannot write .*Permission denied"),
    ],
)
def test_a_disk_that_refuses(engine: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str) -> None:
    def write_text(self: Path, *_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number), str(self))

    def build() -> None:
        with atomic_directory(engine) as directory:
            (directory / "weights.bin").write_bytes(b"half")
            monkeypatch.setattr(Path, "write_text", write_text)
            fill(directory, "new")

    with pytest.raises(EngineError, match=message):
        build()
    monkeypatch.undo()
    assert name(engine) == "tiny"
    assert os.listdir(engine.parent) == ["engine"]


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EngineError, match="cannot write"), atomic_directory(tmp_path / "file" / "engine"):
        pytest.fail("the block must not run")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError(errno.ENOSPC, "No space left on device", "/the/file/that/is/copied"),
    ],
)
def test_a_full_disk_as_libraries_report_it(engine: Path, error: Exception) -> None:
    sentence = f"^no space left on the disk of {engine.parent}: free some"
    with pytest.raises(EngineError, match=sentence), atomic_directory(engine):
        raise error


@pytest.mark.parametrize("failing", ["new", "old"])
def test_without_an_exchange_of_names(engine: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """Two renames replace the engine; the old one comes back when the new one cannot take its name."""
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        if failing == "new" and target == engine and not source.name.endswith(".old") and not engine.exists():
            raise OSError(errno.EACCES, "Permission denied", str(source))
        if failing == "old" and source == engine:
            raise OSError(errno.EBUSY, "Device or resource busy", str(source))
        rename(source, target)

    monkeypatch.setattr(engine_directory, "_exchange", lambda *_: False)
    with atomic_directory(engine) as directory:
        fill(directory, "second")
    assert name(engine) == "second"
    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(EngineError, match="cannot write"), atomic_directory(engine) as directory:
        fill(directory, "new")
    assert name(engine) == "second"
    assert os.listdir(engine.parent) == ["engine"]


@pytest.mark.parametrize("relative", [False, True])
def test_a_link_stays_and_its_directory_is_replaced(tmp_path: Path, engine: Path, relative: bool) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "latest"
    link.symlink_to("../engine" if relative else engine)
    with atomic_directory(link) as directory:
        assert directory.parent == tmp_path
        fill(directory, "new")
    assert link.is_symlink()
    assert name(engine) == "new"
    assert os.listdir(tmp_path / "links") == ["latest"]


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "dangling", "dangling is a link to .*absent, which does not exist")
    refused(tmp_path / "loop", "loop is a link to itself")
    refused(tmp_path / "missing/../engine", "goes through .*missing, which is no directory")
    assert not (tmp_path / "engine").exists()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "to-file").symlink_to("file")
    refused(tmp_path / "to-file", "exists and is not an engine directory")
    assert (tmp_path / "file").read_text() == "mine"
    assert all((tmp_path / each).is_symlink() for each in ("dangling", "loop", "to-file"))


@pytest.mark.parametrize("output", [".", "..", "../engine", "../engine/.", "sub/..", "../../PARENT/engine", ""])
def test_the_current_directory_is_not_replaced(engine: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    (engine / "sub").mkdir()
    monkeypatch.chdir(engine)
    if output == "..":
        fill(engine.parent)
    refused(Path(output.replace("PARENT", engine.parent.name)), "is the current directory or a parent of it")
    assert name(engine) == "tiny"


def test_an_empty_current_directory_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(Path(), r"\. is the current directory .*, such as engine")
    with atomic_directory(Path("engine")) as directory:
        fill(directory)
    assert name(tmp_path / "engine") == "tiny"


def test_a_current_directory_that_was_removed(engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for output in (Path(), Path("engine")):
        refused(output, "is in a directory that was removed")
    with atomic_directory(engine) as directory:
        fill(directory, "new")
    assert name(engine) == "new"


def test_the_root_and_mount_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(Path("/"), "/ is the current directory or a parent of it")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / {tmp_path}/an\\040engine rw - ext4 /dev/sda rw\n")
    monkeypatch.setattr("edgekiln.engine.output_path._MOUNTS", mounts)
    (tmp_path / "an engine").mkdir()
    refused(tmp_path / "an engine", "is a mount point, which cannot be replaced")
    with atomic_directory(tmp_path / "engine") as directory:
        fill(directory)


def test_inputs_are_not_replaced(engine: Path) -> None:
    model = engine / "models" / "tiny"
    model.mkdir(parents=True)
    (model.parent.parent.parent / "link").symlink_to(model)
    refused(engine, "is where .*link is, and would be replaced", (engine.parent / "link",))
    refused(engine, "is where .*tiny is", (model,))
    refused(engine, "is the model itself", (engine,))
    with atomic_directory(model / "engine", reads=(model,)) as directory:  # beside the model's files
        fill(directory)
    assert name(engine) == "tiny"


def test_names_that_are_too_long(tmp_path: Path) -> None:
    refused(tmp_path / ("n" * 256), "cannot write .*File name too long")
    refused(tmp_path / ("n" * 256) / "engine", "cannot write .*File name too long")
    with atomic_directory(tmp_path / ("n" * 255)) as directory:
        fill(directory)
    assert os.listdir(tmp_path) == ["n" * 255]


def test_an_output_that_changes_during_the_build(tmp_path: Path) -> None:
    output = tmp_path / "engine"

    def build() -> None:
        with atomic_directory(output) as directory:
            fill(directory)
            output.mkdir()
            (output / "thesis.txt").write_text("years of work")

    with pytest.raises(EngineError, match="is not an engine directory"):
        build()
    assert (output / "thesis.txt").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["engine"]


@pytest.mark.parametrize("error", [ValueError, EngineError, RuntimeError])
def test_messages_name_the_output(tmp_path: Path, error: type[Exception]) -> None:
    output = tmp_path / "engine"
    with pytest.raises(error) as caught, atomic_directory(output) as directory:
        raise error(f"cannot load {directory / 'generate.onnx'}: no")
    assert str(caught.value) == f"cannot load {output / 'generate.onnx'}: no"


def test_an_error_about_another_file_is_not_about_the_output(engine: Path) -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/file"), atomic_directory(engine):
        Path("/no/such/file").read_bytes()
    with (
        pytest.raises(EngineError, match=r"cannot write .*engine: No such file"),
        atomic_directory(engine) as directory,
    ):
        (directory / "sub" / "file").write_text("x")


def test_a_read_only_engine_is_replaced_and_removed(engine: Path) -> None:
    engine.chmod(0o555)
    with atomic_directory(engine) as directory:
        fill(directory, "new")
    assert name(engine) == "new"
    assert os.listdir(engine.parent) == ["engine"]
    assert stat.S_IMODE(engine.stat().st_mode) == 0o755


# A process that writes an engine and waits, or writes one again and again.
_WRITER = """
import sys, time
from pathlib import Path
from edgekiln.engine.directory import ENGINE_FILE, atomic_directory
from edgekiln.errors import EngineError
output, rounds = Path(sys.argv[1]), int(sys.argv[2])
for i in range(rounds or 1):
    with atomic_directory(output) as directory:
        for file in ("generate.onnx", ENGINE_FILE):
            (directory / file).write_text(f"{sys.argv[3]} {i}")
        if not rounds:
            print(directory, flush=True)
            time.sleep(60)
"""


def writer(output: Path, rounds: int = 0, text: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _WRITER, str(output), str(rounds), text]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed(process: "subprocess.Popen[str]") -> Path:
    """Kill a writer when its directory is written; what it leaves."""
    assert process.stdout
    left = Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()
    assert left.is_dir()
    return left


def test_leftovers_of_a_killed_build_are_removed_by_the_next(tmp_path: Path) -> None:
    left, other = killed(writer(tmp_path / "engine")), killed(writer(tmp_path / "other"))
    users = [tmp_path / f".engine.{each}" for each in ("notes", "edgekiln-tmp-notes", "old")]
    for directory in users:
        directory.mkdir()
    with atomic_directory(tmp_path / "engine") as directory:
        fill(directory)
        assert not left.exists()
    assert other.exists()
    assert all(directory.exists() for directory in users)


def test_a_running_build_is_left_alone(tmp_path: Path) -> None:
    process = writer(tmp_path / "engine")
    assert process.stdout
    running = Path(process.stdout.readline().strip())
    for _ in range(2):
        with atomic_directory(tmp_path / "engine") as directory:
            fill(directory)
    assert set(os.listdir(running)) == {"generate.onnx", ENGINE_FILE}
    process.kill()
    process.communicate()


def test_builds_that_end_at_the_same_moment(tmp_path: Path) -> None:
    """Every reader finds a whole engine of one of them, and all end without an error."""
    output = tmp_path / "engine"
    processes = [writer(output, 100, text) for text in "abc"]
    seen = 0
    while any(process.poll() is None for process in processes):
        try:
            descriptor = os.open(output, os.O_RDONLY)
        except FileNotFoundError:
            assert not seen
            continue
        seen += 1
        os.close(descriptor)
    assert seen
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (output / ENGINE_FILE).read_text() == (output / "generate.onnx").read_text()
    assert os.listdir(tmp_path) == ["engine"]


def test_json_of_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"name": os.fsdecode(b"\xff.txt")})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n "name": "\ufffd.txt"\n}\n'


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes no directories")
def test_an_error_without_a_temporary_directory_names_the_output() -> None:
    with (
        pytest.raises(EngineError, match=r"^cannot write /proc/x: No such file or directory, choose another output"),
        atomic_directory(Path("/proc/x")),
    ):
        pytest.fail("the block must not run")
