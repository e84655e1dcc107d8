"""Where libedgekiln finds ONNX Runtime's library: each test runs it from a folder of its own."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import onnxruntime.capi
import pytest

from support.cpp_host import BUILD, OK, RUNTIME, program

INSTALLED = next(Path(onnxruntime.capi.__path__[0]).glob("libonnxruntime.so.*"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with libedgekiln alone, as in a Python environment."""
    folder = tmp_path / "site-packages" / "edgekiln" / "runtimes" / "lib"
    folder.mkdir(parents=True)
    shutil.copy(next((BUILD / "lib").glob("libedgekiln.so.?.?")), folder)
    return folder


def opened(engine: Path, folder: Path, **environment: str) -> dict[str, Any]:
    """The result of opening `engine` with the libedgekiln in `folder`."""
    environment = {name: value for name, value in os.environ.items() if name != "EDGEKILN_ONNXRUNTIME"} | environment
    environment["LD_LIBRARY_PATH"] = str(folder)
    done = subprocess.run(
        [program("edgekiln_answer"), engine, "{}"],
        env=environment,
        input="",
        capture_output=True,
        text=True,
        check=False,
    )
    hello: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    return hello


def test_none(tiny_engine: Path, folder: Path) -> None:
    failed = opened(tiny_engine, folder)
    assert failed["status"] == RUNTIME
    assert failed["error"] == (
        "ONNX Runtime is not found: put libonnxruntime.so.1 beside libedgekiln, install it for the system, or set "
        "EDGEKILN_ONNXRUNTIME to its path"
    )


def test_in_the_folder(tiny_engine: Path, folder: Path) -> None:
    (folder / "libonnxruntime.so.1").symlink_to(INSTALLED)
    assert opened(tiny_engine, folder)["status"] == OK


def test_the_python_package_beside(tiny_engine: Path, folder: Path) -> None:
    package = folder.parents[2] / "onnxruntime" / "capi"
    package.mkdir(parents=True)
    (package / INSTALLED.name).symlink_to(INSTALLED)
    assert opened(tiny_engine, folder)["status"] == OK


def test_the_variable(tiny_engine: Path, folder: Path) -> None:
    assert opened(tiny_engine, folder, EDGEKILN_ONNXRUNTIME=str(INSTALLED))["status"] == OK


def test_the_variable_names_another_library(tiny_engine: Path, folder: Path) -> None:
    (folder / "libonnxruntime.so.1").symlink_to(INSTALLED)
    other = next(folder.glob("libedgekiln.so.*"))
    failed = opened(tiny_engine, folder, EDGEKILN_ONNXRUNTIME=str(other))
    assert failed["status"] == RUNTIME
    assert failed["error"] == (
        f"EDGEKILN_ONNXRUNTIME must be the path of ONNX Runtime's library, got {other}: "
        "it has no function OrtGetApiBase"
    )
