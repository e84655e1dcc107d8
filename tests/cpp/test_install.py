"""An installed libedgekiln builds projects that use CMake and pkg-config, in C and C++."""

import subprocess
from pathlib import Path

import pytest

from support.cpp_host import BUILD, ROOT, tool

CONSUMER = """
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES C CXX)
find_package(edgekiln 0.1 REQUIRED)
add_executable(in_c program.c)
target_link_libraries(in_c PRIVATE edgekiln::edgekiln)
add_executable(in_cpp program.cpp)
target_compile_features(in_cpp PRIVATE cxx_std_17)
target_link_libraries(in_cpp PRIVATE edgekiln::edgekiln)
"""
C = r"""
#include <edgekiln/edgekiln.h>
#include <stdio.h>
int main(void) {
  edgekiln_engine* engine;
  if (edgekiln_engine_open("nowhere", NULL, &engine) != EDGEKILN_ERROR_ENGINE || engine) return 1;
  printf("%s\n", edgekiln_error());
  edgekiln_engine_close(engine);
  return 0;
}
"""
CPP = r"""
#include <cstdio>
#include <edgekiln/edgekiln.hpp>
int main() {
  const auto engine = edgekiln::Engine::open("nowhere");
  if (engine) return 1;
  std::puts(engine.error().message.c_str());
}
"""
SENTENCE = "no engine directory at nowhere: build one with `edgekiln engine MODEL -o nowhere`\n"


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("installed")
    run(tool("cmake"), "--install", BUILD, "--prefix", directory)
    return directory


def test_a_cmake_project(prefix: Path, tmp_path: Path) -> None:
    for name, text in (("CMakeLists.txt", CONSUMER), ("program.c", C), ("program.cpp", CPP)):
        (tmp_path / name).write_text(text)
    build = tmp_path / "build"
    ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
    run(tool("cmake"), "-S", tmp_path, "-B", build, "-G", "Ninja", ninja, f"-DCMAKE_PREFIX_PATH={prefix}")
    run(tool("cmake"), "--build", build)
    assert run(build / "in_c") == SENTENCE
    assert run(build / "in_cpp") == SENTENCE


def test_pkg_config(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "program.c").write_text(C)
    module = next(prefix.rglob("edgekiln.pc"))
    flags = run("pkg-config", "--cflags", "--libs", module).split()
    library = next(prefix.rglob("libedgekiln.so")).parent
    strict = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
    run("cc", *strict, tmp_path / "program.c", *flags, f"-Wl,-rpath,{library}", "-o", tmp_path / "program")
    assert run(tmp_path / "program") == SENTENCE


def test_examples_are_short() -> None:
    for path in (ROOT / "cpp" / "examples").glob("*.cpp"):
        assert len(path.read_text().splitlines()) < 100, path
