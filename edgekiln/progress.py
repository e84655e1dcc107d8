"""Progress reports, and the time that each step of a build takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

# progress(step, done): the step under way, and the share of it that is done, in [0, 1].
Progress = Callable[[str, float], None]
# The same for a function that is one step: progress(done).
StepProgress = Callable[[float], None]


def no_progress(_step: str, _done: float) -> None:
    """A `Progress` that reports nothing."""


@dataclass
class StepTimer:
    """Times the steps of a build and reports their progress.

    Attributes:
        progress: the caller's.
        seconds: of each finished step.
    """

    progress: Progress = no_progress
    seconds: dict[str, float] = field(default_factory=dict)
    _current: tuple[str, float] | None = None

    def step(self, name: str) -> None:
        """Begin the step `name`, which ends the current one."""
        now = time.perf_counter()
        if self._current is not None:
            step, start = self._current
            self.seconds[step] = round(now - start, 2)
        self._current = (name, now)
        self.progress(name, 0.0)
