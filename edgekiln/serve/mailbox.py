"""From the threads of schedulers to the event loop."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any


class Mailbox:
    """Calls functions in the event loop for other threads, with one wakeup for all that is posted close together.

    A decode step yields a token for each of its rows. To wake the loop for each of them would cost more than the rest
    of the way to the client.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver to `loop`."""
        self._loop = loop
        self._posts: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._woken = False

    def post(self, function: Callable[[Any], None], value: Any) -> None:
        """Have `function(value)` called in the loop, in the order of the posts of a thread. From any thread."""
        self._posts.append((function, value))
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # before the last post is looked for: what is posted later wakes the loop again
        while self._posts:
            function, value = self._posts.popleft()
            function(value)
