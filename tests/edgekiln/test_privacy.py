"""Running an engine writes nothing and connects to nothing; telemetry is off unless the user turns it on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekiln.engine.packed_directory import PACKED_DIRECTORY
from edgekiln.telemetry import disable_telemetry, onnxruntime_telemetry
from support.instruction_sets import fills
from support.packed_weights import large_copy
from support.system_calls import files_in, new_user, traced

VARIABLES = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
COMMAND = (sys.executable, "-m", "edgekiln")
# Modules that users import or that other programs load, and the command's two entries.
ENTRIES = (
    "edgekiln",
    "edgekiln.cli",
    "edgekiln.runtimes",
    "edgekiln.runtimes.ort.cpu",
    "edgekiln.runtimes.ort.binding",
    "edgekiln.runtimes.ort.cuda",
    "edgekiln.runtimes.ort.cuda_kv_cache",
    "edgekiln.system",
    "edgekiln.benchmark",
    "edgekiln.calib.evaluation.graph_scorer",
    "edgekiln.pipeline.build",
    "edgekiln.integrations.lm_eval",
)


def python(script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


@pytest.mark.parametrize("variable", VARIABLES)
def test_variables_are_set_unless_the_user_sets_them(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for before, after in ((None, VARIABLES[variable]), ("", VARIABLES[variable]), ("0", "0"), ("yes", "yes")):
        monkeypatch.delenv(variable, raising=False)
        if before is not None:
            monkeypatch.setenv(variable, before)
        disable_telemetry()
        assert os.environ[variable] == after


@pytest.mark.parametrize(
    ("value", "on"), [("1", False), ("true", False), ("ON", False), ("", False), ("0", True), ("off", True)]
)
def test_the_user_turns_it_on(value: str, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", value)
    assert onnxruntime_telemetry() == on


def test_no_module_imports_onnxruntime_before_telemetry_is_off(tmp_path: Path) -> None:
    script = f"""
import importlib, os, sys
class Finder:
    def find_spec(name, *_):
        if name == "onnxruntime":
            assert os.environ.get("ORT_DISABLE_TELEMETRY") == "1", "telemetry is on"
sys.meta_path.insert(0, Finder)
for name in {ENTRIES!r}:
    importlib.import_module(name)
assert "onnxruntime" in sys.modules
"""
    environment = new_user(tmp_path)
    done = python(script, environment)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not [name for name in files_in(tmp_path) if "onnxruntime" in name.lower() or "microsoft" in name.lower()]


@pytest.mark.parametrize("entry", ["edgekiln", "edgekiln.runtimes"])
def test_python_leaves_no_file(entry: str, tiny_engine: Path, tmp_path: Path) -> None:
    call = {
        "edgekiln": "edgekiln.Engine.open(path).score([1, 2, 3])",
        "edgekiln.runtimes": "edgekiln.runtimes.open(path).score(__import__('numpy').array([1, 2, 3]))",
    }[entry]
    done = python(f"path = {str(tiny_engine)!r}\nimport {entry}\n{call}", new_user(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert files_in(tmp_path) == []


def test_onnxruntime_would_write_files(tmp_path: Path) -> None:
    """The tests above can fail: without the variable, importing the library leaves files."""
    done = python("import onnxruntime", new_user(tmp_path, ORT_DISABLE_TELEMETRY="0"))
    assert done.returncode == 0, done.stderr
    if not files_in(tmp_path):
        pytest.skip("this build of ONNX Runtime has no telemetry")
    # A user who turns telemetry on keeps it.
    (tmp_path / "again").mkdir()
    done = python("import edgekiln.runtimes.ort.cpu", new_user(tmp_path / "again", ORT_DISABLE_TELEMETRY="0"))
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path / "again")


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "ENGINE", "-p", "hello", "--regex", "yes"),
        ("bench", "ENGINE", "--prompt-tokens", "8", "--gen-tokens", "4", "--repeat", "1"),
        ("inspect", "ENGINE"),
        ("report", "ENGINE"),
        ("list", "ENGINE"),
        ("verify", "ENGINE"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_writes_nothing_and_connects_to_nothing(
    arguments: tuple[str, ...], tiny_engine: Path, tmp_path: Path
) -> None:
    user = tmp_path / "user"
    user.mkdir()
    environment = new_user(user)
    command = [*COMMAND, *(str(tiny_engine) if part == "ENGINE" else part for part in arguments)]
    done, calls = traced(command, environment, tmp_path / "strace.log")
    assert (done.returncode, done.stderr) == (0, "")
    assert calls == []
    assert files_in(user) == []


def test_a_large_engine_writes_packed_weights_only(tiny_engine: Path, tmp_path: Path) -> None:
    engine = large_copy(tiny_engine, tmp_path / "engine")
    user = tmp_path / "user"
    user.mkdir()
    environment = new_user(user)
    command = [*COMMAND, "run", str(engine), "-p", "hello", "--regex", "yes"]
    for options, allowed in ((("--no-pack-cache",), "nothing"), ((), f"{engine}/{PACKED_DIRECTORY}")):
        done, calls = traced([*command, *options], environment, tmp_path / "strace.log")
        assert (done.returncode, done.stderr) == (0, "")
        # Calls relative to that directory name it by a descriptor.
        assert [
            call for call in calls if allowed not in call and ".packed" not in call and "O_TMPFILE" not in call
        ] == []
        assert (engine / PACKED_DIRECTORY).is_dir() == (allowed != "nothing" and fills("nbits_gemm"))
    assert files_in(user) == []


def test_a_command_leaves_no_file(tiny_engine: Path, tmp_path: Path) -> None:
    """As above, where strace is missing."""
    command = [*COMMAND, "run", str(tiny_engine), "-p", "hello", "--regex", "yes"]
    done = subprocess.run(command, capture_output=True, text=True, env=new_user(tmp_path), timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_in(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["int8", pytest.param("int4-gptq", marks=pytest.mark.llm_compressor)])
def test_building_from_local_files_connects_to_nothing(tiny_checkpoint: Path, tmp_path: Path, quant: str) -> None:
    user = tmp_path / "user"
    user.mkdir()
    data = ("--calib-samples", "2", "--calib-length", "16")
    command: list[str | Path] = [
        *COMMAND,
        "engine",
        tiny_checkpoint,
        "-o",
        tmp_path / "engine",
        "--quant",
        quant,
        *data,
        "--quiet",
    ]
    done, calls = traced(command, new_user(user), tmp_path / "strace.log")
    assert (done.returncode, done.stderr) == (0, "")
    outside = [
        call for call in calls if not any(str(path) in call for path in (tmp_path / "engine", user / "temporary"))
    ]
    assert [call for call in outside if "AF_INET" in call and "connect" in call] == []
    assert {name.split("/")[0] for name in files_in(user)} <= {"cache", "temporary"}
    assert all(name.startswith("cache/edgekiln") for name in files_in(user) if name.startswith("cache"))
