"""libedgekiln opens an engine that a build replaces again and again, at a path that need not be UTF-8."""

import json
import os
import shutil
import threading
from pathlib import Path

from edgekiln.engine.directory import ENGINE_FILE, atomic_directory, sha256
from support.cpp_host import ENGINE, OK, Host


def replace(engine: Path, times: int) -> None:
    """Replace an engine as another build does; one file differs each time."""
    with atomic_directory(engine) as directory:
        shutil.copytree(engine, directory, dirs_exist_ok=True)
        report = directory / "report.json"
        report.write_text(report.read_text().rstrip("\n") + "\n" * (1 + times % 5))
        manifest = json.loads((directory / ENGINE_FILE).read_text())
        manifest["files"]["report.json"] = sha256(report)
        (directory / ENGINE_FILE).write_text(json.dumps(manifest))


def test_an_engine_that_is_replaced_is_not_called_damaged(tiny_engine: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(tiny_engine, engine)
    done = threading.Event()

    def build() -> None:
        times = 0
        while not done.is_set():
            times += 1
            replace(engine, times)

    thread = threading.Thread(target=build)
    thread.start()
    found = set()
    try:
        for _ in range(10):
            with Host(engine) as host:
                found.add((host.hello["status"], host.hello.get("error")))
    finally:
        done.set()
        thread.join()
    sentence = f"{engine} was replaced by another engine while it was in use: open it again"
    assert found <= {(OK, None), (ENGINE, sentence)}
    with Host(engine) as host:
        assert host.hello["status"] == OK


def test_an_engine_at_a_path_that_is_not_utf8(tiny_engine: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    shutil.copytree(tiny_engine, odd / "engine")
    with Host(tiny_engine) as expected, Host(odd / "engine") as host:
        assert host.hello["status"] == OK
        answers = [each.ask([1, 2, 3], max_tokens=4)["ids"] for each in (host, expected)]
    assert answers[0] == answers[1]
