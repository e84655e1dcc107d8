"""How a command that writes files ends on a signal."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

# SIGHUP, which a closing terminal sends, does not exist on Windows.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def exit_on_signal() -> Iterator[None]:
    """End the block, and with it the program, on the first SIGINT, SIGTERM or SIGHUP.

    Later signals are ignored, so that temporary files are removed and the exit status is that of the first signal. A
    signal that is ignored already, as nohup does with SIGHUP, stays ignored.
    """
    stopped = False

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        nonlocal stopped
        stopped = True
        for each in previous:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        if not stopped:
            for number, handler in previous.items():
                signal.signal(number, handler)
