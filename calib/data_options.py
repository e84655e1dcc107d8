"""What a user can choose of the calibration data; imports nothing heavy."""

from dataclasses import dataclass

from edgekiln.errors import RequestError

# Smoothing looks at the size of each channel only: with 16 windows it comes out as with 64, in half the time.
FEW_WINDOWS = 16
MANY_WINDOWS = 64


@dataclass(frozen=True)
class DataOptions:
    """Calibration data.

    Attributes:
        data: a text file, a JSONL file of {"text"} or {"messages"} objects, or the name of a data set for the
            `datasets` library; None lets the model write its own.
        samples: windows of tokens, at most; None is as many as the recipe needs.
        length: tokens of a window.
        seed: of what the model writes.

    Raises:
        RequestError: a value is out of its range.
    """

    data: str | None = None
    samples: int | None = None
    length: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise RequestError(f"calib samples must be at least 1, got {self.samples}")
        if self.length < 2:
            raise RequestError(f"calib length must be at least 2 tokens, got {self.length}")

    @property
    def count(self) -> int:
        """Windows, at most."""
        return MANY_WINDOWS if self.samples is None else self.samples
