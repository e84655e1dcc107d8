"""A child process that speaks JSON lines: one request in, one answer out, after a first line when it is ready."""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class JsonProcess:
    """A running child; `hello` is its first line, `started` its start by time.perf_counter."""

    def __init__(
        self, command: Sequence[str | Path], log: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it and wait until it is ready; stderr goes to `log`.

        Raises:
            SystemExit: the process ended before it was ready.
        """
        self._command, self._log = [str(part) for part in command], log
        self.started = time.perf_counter()
        with log.open("w") if log else open(os.dup(2), "w") as stderr:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=os.environ | (environment or {}),
            )
        self.pid = self._process.pid
        self.hello = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            where = f": see {self._log}" if self._log else ""
            raise SystemExit(f"{' '.join(self._command)} ended with {self._process.wait()}{where}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **request: object) -> dict[str, Any]:
        """Send one request and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def peak_rss_mb(self) -> float:
        """Peak resident memory so far in MB (10^6 bytes), VmHWM of /proc."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill the process and wait for it."""
        self._process.kill()
        self._process.wait()
