"""ONNX Runtime's log never reaches the terminal: not while it is imported, not from a damaged graph."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from edgekiln.runtimes.ort import library

LOG = (
    b"\x1b[0;93m2026-11-28 22:23:53.784489584 [W:onnxruntime:Default, device_discovery.cc:322 GetGpuDevices] Failed to "
    b'detect devices under "/sys/class/drm/card1": no such\nfile\x1b[m\n'
    b"2026-11-28 22:23:54.028419308 [I:onnxruntime:, session.cc:1 Load] Loading\n"
    b"\x1b[1;31m2026-11-28 22:23:54.1 [E:onnxruntime:Default, provider.cc:1 Load] Failed\x1b[m\n"
    b"Error in cpuinfo: failed to parse the list of possible processors in /sys/devices/system/cpu/possible\n"
)
# Loads the engine at argv[1] and prints the message of the error, if there is one.
OPEN = """
import sys
from edgekiln import runtimes
from edgekiln.errors import EdgekilnError
try:
    runtimes.open(sys.argv[1], kernels=sys.argv[2], verify=False)
except EdgekilnError as error:
    print(error)
"""
# Opens the graph at argv[1] as a user of ONNX Runtime would.
USE = "onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"


def python(script: str, *arguments: str | Path, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    command = [*prefix, sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


def test_only_log_records_are_removed(capfd: pytest.CaptureFixture[str]) -> None:
    with library._without_log():
        os.write(2, b"before [W:onnxruntime is no record\n" + LOG + b"between\n" + LOG + b"after")
    os.write(2, b"; later\n")
    assert capfd.readouterr().err == "before [W:onnxruntime is no record\nbetween\nafter; later\n"


def test_output_before_an_error_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with library._without_log():
            os.write(2, LOG + b"why\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert capfd.readouterr().err == "why\n"


def test_a_process_without_stderr() -> None:
    script = f"{sys.executable} -c 'from edgekiln.runtimes.ort import library; print(library.LOG_FATAL)' 2>&-"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"4\n")


def test_no_descriptor_is_left_open() -> None:
    script = """
import os
before = len(os.listdir("/proc/self/fd"))
from edgekiln.runtimes.ort.library import _without_log
for _ in range(3):
    with _without_log():
        pass
print(len(os.listdir("/proc/self/fd")) - before)
"""
    done = python(script)
    assert int(done.stdout) <= 1, done.stderr  # ONNX Runtime's own


def test_a_gpu_that_a_container_hides(engine: Path) -> None:
    # A GPU in sysfs whose vendor cannot be read: the library warns while it is imported.
    hidden = (
        "mount -t tmpfs none /sys/bus/pci/devices && mkdir /sys/bus/pci/devices/0000:00:01.0 && "
        'echo 0x030000 > /sys/bus/pci/devices/0000:00:01.0/class && exec "$@"'
    )
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    prefix = ("unshare", "-m", "sh", "-c", hidden, "sh")
    plain = python("import onnxruntime", prefix=prefix)
    if b"onnxruntime:Default" not in plain.stderr:
        pytest.skip(f"cannot hide a GPU here: {plain.stderr!r}")
    done = python(OPEN, engine, "edgekiln", prefix=prefix)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("first", ["", "import onnxruntime\n"], ids=["edgekiln first", "onnxruntime first"])
@pytest.mark.parametrize("kernels", ["edgekiln", "onnxruntime"])
@pytest.mark.parametrize("content", [b"", b"\x08\x07no graph", None], ids=["empty", "garbage", "cut off"])
def test_a_damaged_graph_prints_nothing(
    content: bytes | None, kernels: str, first: str, engine: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(engine, tmp_path / "engine")
    graph = damaged / "generate.onnx"
    graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2] if content is None else content)
    done = python(first + OPEN, damaged, kernels)
    assert done.stdout.startswith(b"ONNX Runtime"), done.stdout
    assert b"cannot load" in done.stdout
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.fixture
def graph_with_warning(tmp_path: Path) -> Path:
    """A graph with an initializer that no node uses, of which ONNX Runtime warns."""
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    unused = helper.make_tensor("unused", onnx.TensorProto.FLOAT, [1], [0.0])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", [x], [y], [unused])
    path = tmp_path / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_the_log_of_a_user_who_imported_it_first(graph_with_warning: Path) -> None:
    mine = python(f"import sys, onnxruntime\nimport edgekiln.runtimes.ort.cpu\n{USE}", graph_with_warning)
    quiet = python(f"import sys\nimport edgekiln.runtimes.ort.cpu\nimport onnxruntime\n{USE}", graph_with_warning)
    assert (mine.returncode, quiet.returncode) == (0, 0)
    assert b"[W:onnxruntime:" in mine.stderr
    assert quiet.stderr == b""
