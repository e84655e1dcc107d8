"""Run a function on thousands of mutated inputs: it returns, or raises an `EdgekilnError` of one sentence.

Anything else is a failure that names the seed: another exception, a case of more than `SECONDS` of processor time, more
than `MEMORY` bytes of memory, or a line on stdout or stderr. To run one seed again, set EDGEKILN_FUZZ_SEED; to run more
cases, set EDGEKILN_FUZZ_CASES:

    EDGEKILN_FUZZ_SEED=1234 python -m pytest tests/fuzz -k config
"""

import contextlib
import faulthandler
import os
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from edgekiln.errors import EdgekilnError

CASES = int(os.environ.get("EDGEKILN_FUZZ_CASES", "2000"))
SECONDS = 5
MEMORY = 500_000_000
_ADDRESS_SPACE = 8 << 30  # bytes that a case may reserve; keeps the machine alive
_LONGEST_MESSAGE = 500
_NO_SENTENCE = re.compile(r"Traceback|\b\w*(Error|Exception)\(|<class |<function | object at 0x")
_MOST_FAILURES = 10


class TooSlow(BaseException):
    """A case took more than `SECONDS`; no `Exception`, which the code under test may catch."""


class Fuzzer:
    """Runs the cases of a test."""

    def __init__(self, capture: pytest.CaptureFixture[str], directory: Path) -> None:
        self._accepted = 0
        self._refused = 0
        self._capture = capture
        self._seed_file = directory / "seed"
        self._seconds = SECONDS

    def run(
        self,
        case: Callable[[Random], Any],
        cases: int = CASES,
        ignored_warnings: tuple[type[Warning], ...] = (),
    ) -> None:
        """Run `case` with the generators of seeds 0 to `cases`, and fail the test if one does not end as it should.

        Args:
            case: draws a mutation and runs it.
            cases: number of seeds.
            ignored_warnings: categories of warnings that the command line does not show.
        """
        chosen = os.environ.get("EDGEKILN_FUZZ_SEED")
        failures = []
        for seed in [int(chosen)] if chosen else range(cases):
            self._seed_file.write_text(str(seed))  # for a case that ends the process
            failure = self._failure(case, seed, ignored_warnings)
            if failure:
                failures.append(f"seed {seed}: {failure}")
            if len(failures) == _MOST_FAILURES:
                break
        if failures:
            pytest.fail("\n\n".join(failures), pytrace=False)
        if not chosen:
            assert self._accepted, "every mutation was refused"
            assert self._refused, "every mutation was accepted"

    def allow(self, seconds: int) -> None:
        """Let the current case take longer from now on, for work that takes seconds whatever the input is."""
        self._seconds = SECONDS + seconds
        signal.setitimer(signal.ITIMER_PROF, seconds)

    def _failure(self, case: Callable[[Random], Any], seed: int, ignored: tuple[type[Warning], ...]) -> str | None:
        """What is wrong with the end of one case; None if nothing is."""
        before = _peak_memory(reset=True)
        message = None
        self._seconds = SECONDS
        try:
            with _limits(), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for category in ignored:
                    warnings.simplefilter("ignore", category)
                start = time.process_time()
                case(Random(seed))
            self._accepted += 1
        except EdgekilnError as error:
            self._refused += 1
            message = str(error)
        except TooSlow as error:
            return f"more than {self._seconds} s\n{_trace(error)}"
        except AssertionError as error:
            return str(error)
        except Exception as error:
            return _trace(error)
        checks = {
            f"no sentence: {message!r:.1000}": message is not None and not is_sentence(message),
            f"a library takes more than {self._seconds} s": time.process_time() - start > self._seconds,
            f"more than {MEMORY // 10**6} MB of memory": _peak_memory() - before > MEMORY,
            f"output {(output := ''.join(self._capture.readouterr()))!r:.1000}": bool(output.strip()),
            f"warning {caught[0].category.__name__}: {caught[0].message}" if caught else "": bool(caught),
        }
        return next((reason for reason, holds in checks.items() if holds), None)


def is_sentence(message: str) -> bool:
    """Whether an error's message is one line of moderate length, without an exception's class or a traceback."""
    return len(message.splitlines()) == 1 and len(message) < _LONGEST_MESSAGE and not _NO_SENTENCE.search(message)


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Raise `TooSlow` after `SECONDS` of processor time; end the process if a library does not return at all."""

    def too_slow(*_: object) -> None:
        raise TooSlow

    previous = signal.signal(signal.SIGPROF, too_slow)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + _ADDRESS_SPACE, hard))
    faulthandler.dump_traceback_later(20 * SECONDS, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, previous)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _peak_memory(reset: bool = False) -> int:
    """Largest resident memory of this process in bytes, since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def _trace(error: BaseException) -> str:
    lines = traceback.format_exception(error)
    return "".join(lines[-12:])[-2500:]
