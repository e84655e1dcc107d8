"""`edgekiln sdk` in installations with and without libedgekiln."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekiln.cli import main
from edgekiln.runtimes.ort import kernels


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the kernels in an installed package that has libedgekiln."""
    path = tmp_path / "edgekiln" / "runtimes" / "lib" / "libedgekiln_ops.so"
    header = path.parents[1] / "include" / "edgekiln" / "edgekiln.h"
    header.parent.mkdir(parents=True)
    header.touch()
    monkeypatch.setattr(kernels, "LIBRARY", path)
    return path


def test_folders(library: Path) -> None:
    runtimes = library.parents[1]
    expected = {
        "cmake-dir": runtimes / "lib" / "cmake" / "edgekiln",
        "include-dir": runtimes / "include",
        "library-dir": runtimes / "lib",
        "pkg-config-dir": runtimes / "lib" / "pkgconfig",
    }
    printed = CliRunner().invoke(main, ["sdk"], catch_exceptions=False)
    assert printed.output.split() == [word for name, folder in expected.items() for word in (name, str(folder))]
    assert json.loads(CliRunner().invoke(main, ["sdk", "--json"]).output) == {k: str(v) for k, v in expected.items()}
    for name, folder in expected.items():
        assert CliRunner().invoke(main, ["sdk", f"--{name}"]).output == f"{folder}\n"


@pytest.mark.parametrize(("checkout", "fix"), [(True, "make cpp"), (False, "install a wheel of edgekiln")])
def test_without_libedgekiln(library: Path, monkeypatch: pytest.MonkeyPatch, checkout: bool, fix: str) -> None:
    (library.parents[1] / "include" / "edgekiln" / "edgekiln.h").unlink()
    monkeypatch.setattr(kernels, "in_checkout", lambda: checkout)
    result = CliRunner().invoke(main, ["sdk"])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert f"{library.parents[1]} has no libedgekiln: " in result.output
    assert fix in result.output
