"""Arrays on disk instead of in memory, between the step of a build that makes them and the one that reads them."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

# An array of fewer bytes costs less memory than the means to find it again.
_SMALL = 1024


class ScratchFile:
    """A file without a name in `directory`, so that a killed process leaves none behind. One thread uses it at a time.

    The directory is best that of the output: the system's temporary directory is in memory on many machines.

    Raises:
        OSError: the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed by __exit__
        self._end = 0

    def __enter__(self) -> "ScratchFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def keep(self, array: Array) -> Callable[[], Array]:
        """Write an array to the file.

        Args:
            array: of any shape and numeric dtype.

        Returns:
            A function that reads the array back, as often as it is called, until the file is closed.

        Raises:
            OSError: the disk is full.
        """
        if array.nbytes < _SMALL:
            return lambda: array
        offset, shape, dtype = self._end, array.shape, array.dtype
        self._file.seek(offset)
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._end += array.nbytes

        def read() -> Array:
            found = np.empty(shape, dtype)
            self._file.seek(offset)
            if self._file.readinto(found.reshape(-1).view(np.uint8).data) != found.nbytes:
                raise OSError(f"a scratch file lost {found.nbytes} bytes at {offset}")
            return found

        return read
