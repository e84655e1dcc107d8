"""Files that users name are written atomically, and never over a file of an engine."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from edgekiln.engine.directory import ENGINE_FILE
from edgekiln.engine.output_file import check_output_file, write_output_file
from edgekiln.errors import RequestError


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    directory = tmp_path / "engine"
    directory.mkdir()
    for name in ("generate.onnx", "weights.bin"):
        (directory / name).write_text("engine")
    (directory / ENGINE_FILE).write_text(json.dumps({"files": {"generate.onnx": "", "weights.bin": ""}}))
    return directory


def contents(engine: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in engine.iterdir()}


@pytest.mark.parametrize("name", ["generate.onnx", "weights.bin", ENGINE_FILE, "report.json", "chat_template.jinja"])
@pytest.mark.parametrize("way", ["path", "dots", "link", "link-to-directory"])
def test_files_of_an_engine_are_refused(tmp_path: Path, engine: Path, name: str, way: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "page").symlink_to(engine / name)
    (tmp_path / "directory").symlink_to(engine)
    path = {
        "path": engine / name,
        "dots": tmp_path / "sub" / ".." / "engine" / name,
        "link": tmp_path / "page",
        "link-to-directory": tmp_path / "directory" / name,
    }[way]
    before = contents(engine)
    with pytest.raises(RequestError, match=r"is a file of the engine .*: give another file"):
        write_output_file(path, "page")
    assert contents(engine) == before


def test_hard_links_to_files_of_an_engine(tmp_path: Path, engine: Path) -> None:
    os.link(engine / "weights.bin", tmp_path / "page")
    with pytest.raises(RequestError, match="is a file of the engine"):
        write_output_file(tmp_path / "page", "page", [engine])
    write_output_file(tmp_path / "page", "page")  # of an engine that is not known: the link is replaced
    assert (engine / "weights.bin").read_text() == "engine"


def test_other_files(tmp_path: Path, engine: Path) -> None:
    write_output_file(engine / "page.html", "in an engine")
    write_output_file(engine / "page.html", "again", [engine])
    assert (engine / "page.html").read_text() == "again"
    (engine / ENGINE_FILE).write_text("damaged")
    with pytest.raises(RequestError, match="is a file of the engine"):
        check_output_file(engine / "quantization.json")
    assert stat.S_IMODE((engine / "page.html").stat().st_mode) == 0o644


def test_links_stay_and_modes_too(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("old")
    (tmp_path / "page").chmod(0o600)
    (tmp_path / "link").symlink_to("page")
    write_output_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "page").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "page").stat().st_mode) == 0o600
    (tmp_path / "dangling").symlink_to("created")
    write_output_file(tmp_path / "dangling", "new")
    assert (tmp_path / "created").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["created", "dangling", "link", "page"]


def test_devices_and_pipes_are_written_as_they_are(tmp_path: Path) -> None:
    write_output_file(Path(os.devnull), "page")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_output_file(tmp_path / "pipe", "page")
    reader.join()
    assert read == ["page"]
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path, "Is a directory"),
        (tmp_path / "absent" / "page", "No such file or directory"),
        (tmp_path / ("n" * 300), "File name too long"),
        (Path("/dev/full"), "no space left on the disk"),
    ):
        with pytest.raises(RequestError, match=f"cannot write {path}: {reason}"):
            write_output_file(path, "page")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RequestError, match="cannot write"):
        write_output_file(tmp_path / "loop", "page")
    assert os.listdir(tmp_path) == ["loop"]
