"""Options of the calibration data. Imports nothing heavy."""

from dataclasses import dataclass, replace

from edgekiln.errors import RequestError

# Default number of windows. SmoothQuant and static activation scales depend on statistics of whole channels only: 16
# windows give the same result as 64 in half the time.
FEW_WINDOWS = 16
MANY_WINDOWS = 64
DEFAULT_LENGTH = 256


@dataclass(frozen=True)
class DataOptions:
    """Calibration data.

    Attributes:
        data: a text file, a JSONL file of {"text"} or {"messages"} objects, or the name of a data set for the
            `datasets` library; None is synthetic data, which the model generates.
        samples: largest number of windows; None is as many as the recipe's quantizers need.
        length: tokens of a window; the default is reduced to the context of a model with a shorter one.
        seed: of synthetic data.

    Raises:
        RequestError: a value is out of its range.
    """

    data: str | None = None
    samples: int | None = None
    length: int = DEFAULT_LENGTH
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise RequestError(f"calib samples must be at least 1, got {self.samples}")
        if self.length < 2:
            raise RequestError(f"calib length must be at least 2 tokens, got {self.length}")

    @property
    def count(self) -> int:
        """Largest number of windows."""
        return MANY_WINDOWS if self.samples is None else self.samples

    def fitted(self, limit: int | None) -> "DataOptions":
        """These options for a model with a context of `limit` tokens; None is no limit.

        Raises:
            RequestError: the user asked for longer windows.
        """
        if limit is None or self.length <= limit:
            return self
        if self.length != DEFAULT_LENGTH:
            raise RequestError(
                f"calib length {self.length} is over the model's context of {limit}: lower --calib-length"
            )
        return replace(self, length=limit)
