"""The wheels of `make wheels`, installed where no compiler is. `make test-wheels` runs these; they need a network."""

import os
import platform
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from support.cpp_host import ROOT

WHEELS = sorted((ROOT / "dist").glob("edgekiln-*manylinux*.whl"))
OWN = [wheel for wheel in WHEELS if wheel.name.endswith(f"{platform.machine()}.whl")]
# What manylinux_2_28 lets a library depend on, and edgekiln's do.
SYSTEM = re.compile(r"(libc|libm|libpthread|libdl|librt|libgcc_s|ld-linux.*)\.so\.\d+")
C = r"""
#include <edgekiln/edgekiln.h>
#include <stdio.h>
int main(int count, char** arguments) {
  edgekiln_engine* engine;
  if (count != 2 || edgekiln_engine_open(arguments[1], NULL, &engine)) return puts(edgekiln_error()), 1;
  edgekiln_engine_close(engine);
  return 0;
}
"""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not WHEELS, reason="no wheels in dist: make wheels")]


def run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=OWN, ids=lambda wheel: wheel.name)
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with this machine's wheel and ONNX Runtime."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=True)
    programs = directory / "bin"
    wheel = f"edgekiln[cpu] @ {request.param.as_uri()}"
    run(programs / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, PATH=str(programs))
    return programs


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.name)
def test_libraries_depend_on_old_systems_only(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    libraries = sorted(tmp_path.rglob("*.so*"))
    assert [library.name for library in libraries] == ["libedgekiln.so.0.1", "libedgekiln_ops.so"]
    for library in libraries:
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", library))
        assert needed, library
        assert [name for name in needed if not SYSTEM.fullmatch(name)] == []
        versions = re.findall(r"GLIBC_(\d+)\.(\d+)", run("readelf", "-V", library))
        assert max((int(major), int(minor)) for major, minor in versions) <= (2, 28)
        assert "GLIBCXX" not in run("readelf", "-V", library)
    licenses = {
        path.stem for path in (tmp_path / "edgekiln" / "runtimes" / "share" / "licenses" / "edgekiln").iterdir()
    }
    assert licenses == {"libpcre2-dev", "libssl-dev", "libutf8proc-dev", "nlohmann-json3-dev"}


def test_doctor_shows_the_kernels(installed: Path) -> None:
    kernels = next(line for line in run(installed / "edgekiln", "doctor").splitlines() if line.startswith("kernels"))
    assert "not installed" not in kernels
    assert kernels.split()[1] != "none"


def test_run(installed: Path, tiny_engine: Path) -> None:
    command = (installed / "edgekiln", "run", tiny_engine, "-p", "hello", "--max-tokens", "3")
    answer = run(*command, PATH=str(installed))
    assert answer == run(sys.executable, "-m", "edgekiln", *command[1:])


def test_a_c_program_finds_the_library_and_onnx_runtime(installed: Path, tiny_engine: Path, tmp_path: Path) -> None:
    (tmp_path / "program.c").write_text(C)
    packages, library = (
        run(installed / "edgekiln", "sdk", f"--{name}").strip() for name in ("pkg-config-dir", "library-dir")
    )
    flags = run("pkg-config", "--cflags", "--libs", "edgekiln", PKG_CONFIG_PATH=packages).split()
    run("cc", tmp_path / "program.c", *flags, f"-Wl,-rpath,{library}", "-o", tmp_path / "program")
    assert run(tmp_path / "program", tiny_engine) == ""
