"""Programs that link libedgekiln write nothing and connect to nothing, unless the user turns telemetry on."""

import json
import subprocess
from pathlib import Path

import pytest

from support.cpp_host import BUILD, OK, program
from support.system_calls import files_in, new_user, traced

REQUEST = json.dumps({"ids": [1, 2, 3], "max_tokens": 3}) + "\n"


def host(engine: Path) -> list[str | Path]:
    return [program("edgekiln_answer"), engine, "{}"]


def test_a_host_writes_nothing_and_connects_to_nothing(tiny_engine: Path, tmp_path: Path) -> None:
    user = tmp_path / "user"
    user.mkdir()
    done, calls = traced(host(tiny_engine), new_user(user), tmp_path / "strace.log", stdin=REQUEST)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[1])["status"] == OK
    assert calls == []
    assert files_in(user) == []


def test_the_example_writes_nothing_and_connects_to_nothing(tiny_engine: Path, tmp_path: Path) -> None:
    example = BUILD / "examples" / "host"
    assert example.is_file(), f"{example} is not built: make cpp"
    user = tmp_path / "user"
    user.mkdir()
    done, calls = traced([example, tiny_engine, "hello"], new_user(user), tmp_path / "strace.log")
    assert done.returncode == 0, done.stderr
    assert calls == []
    assert files_in(user) == []


@pytest.mark.parametrize("value", [None, "", "1"])
def test_a_host_leaves_no_file(value: str | None, tiny_engine: Path, tmp_path: Path) -> None:
    environment = new_user(tmp_path) | ({} if value is None else {"ORT_DISABLE_TELEMETRY": value})
    done = subprocess.run(
        host(tiny_engine), input=REQUEST, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert files_in(tmp_path) == []


def test_the_user_turns_telemetry_on(tiny_engine: Path, tmp_path: Path) -> None:
    """The tests above can fail: with telemetry, ONNX Runtime leaves files."""
    environment = new_user(tmp_path, ORT_DISABLE_TELEMETRY="0")
    subprocess.run(host(tiny_engine), input=b"", env=environment, capture_output=True, timeout=60, check=True)
    if not files_in(tmp_path):
        pytest.skip("this build of ONNX Runtime has no telemetry")
