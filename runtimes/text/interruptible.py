"""Run a long call of a library that ignores Ctrl-C."""

import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")
_POLL_S = 0.05


def interruptible(call: Callable[[], _Result]) -> _Result:
    """The result of a call that releases the GIL, in a thread of its own, so that Ctrl-C ends the wait for it.

    Python handles signals only between its own instructions, so a library's function would first run to its end. An
    interrupted call runs on in its daemon thread, which does not keep the program from exiting.

    Raises:
        KeyboardInterrupt: at Ctrl-C.
        BaseException: what the call raises.
    """
    results: list[_Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again below
            errors.append(error)
        done.set()

    threading.Thread(target=run, daemon=True).start()
    while not done.wait(_POLL_S):
        pass
    if errors:
        raise errors[0]
    return results[0]
