"""Run the test programs of `make cpp`: libedgekiln in a process of its own, with one JSON request a line."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekiln.runtimes.ort.kernels import LIBRARY

ROOT = Path(__file__).parents[2]
DEFAULT_BUILD = ROOT / "build" / "cpp"
BUILD = Path(os.environ.get("EDGEKILN_CPP_BUILD", DEFAULT_BUILD))
# Values of edgekiln_status.
OK, REQUEST, ENGINE, UNSUPPORTED, RUNTIME, CANCELLED, MEMORY = range(7)
# Values of edgekiln_finish_reason.
FINISHES = (None, "eos", "stop", "length")


def program(name: str) -> Path:
    """A test program of `make cpp`."""
    path = BUILD / "tests" / "lib" / name
    assert path.is_file(), f"{path} is not built: make cpp"
    return path


def tool(name: str) -> str:
    """CMake and Ninja of the environment that runs the tests, else those of the system."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    assert found, f"{name} is not installed"
    return found


class Host:
    """An engine opened by libedgekiln, with one session; `hello` is the program's first line, the result of opening it.

    Use it as a context manager: leaving it checks the program's exit status. It uses the kernel library of the Python
    package, since kernels built with sanitizers differ in their last bits.
    """

    def __init__(self, engine: Path | str, **options: Any) -> None:
        if BUILD != DEFAULT_BUILD and LIBRARY.is_file():
            options.setdefault("kernels_library", str(LIBRARY))
        command = [program("edgekiln_answer"), engine, json.dumps(options)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.hello = self._read()

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0

    def ask(
        self,
        ids: Sequence[int] | None = None,
        mask: Callable[[list[int]], dict[str, Any]] | None = None,
        **request: Any,
    ) -> dict[str, Any]:
        """The reply to a request; see cpp/tests/lib/answer.cpp. `mask` gives {"words": mask} or {"result": N}."""
        if ids is not None:
            request["ids"] = [int(token) for token in ids]
        self._write(_plain(request) | {"masked": mask is not None})
        reply = self._read()
        while mask is not None and "answer" in reply:
            self._write(mask(reply["answer"]))
            reply = self._read()
        return reply

    def _write(self, request: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request) + "\n")

    def _read(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"the program ended with {self.process.wait()}"
        return json.loads(line)


def _plain(value: Any) -> Any:
    """A request without what JSON does not have: numbers that are not finite, and text that is not UTF-8."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str) and not value.isascii():
        data = value.encode("utf-8", "surrogateescape")
        return {"bytes": list(data)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def refusal(engine: Path, **options: Any) -> tuple[int, str]:
    """Status and message of an engine that cannot be opened."""
    with Host(engine, **options) as host:
        return host.hello["status"], host.hello.get("error", "")


def refused(name: str, path: Path) -> str:
    """The message with which a program refuses a file."""
    done = subprocess.run([program(name), path], input=b"", capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    return done.stderr.decode().rstrip("\n")


class Engines:
    """A process of libedgekiln that opens one engine after another; leaving it checks its exit status."""

    def __init__(self) -> None:
        command: list[str | Path] = [program("edgekiln_engines")]
        if BUILD != DEFAULT_BUILD and LIBRARY.is_file():
            command.append(LIBRARY)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )

    def __enter__(self) -> "Engines":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0

    def first_token(self, engine: Path) -> dict[str, Any]:
        """The status and the ids, or the error, of one token after "a"; see cpp/tests/lib/engines.cpp."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{engine}\n")
        line = self._process.stdout.readline()
        assert line, f"the program ended with {self._process.wait()}"
        return json.loads(line)
