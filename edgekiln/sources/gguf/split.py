"""GGUF files that llama.cpp's gguf-split cut into parts NAME-00001-of-0000N.gguf, read as one file."""

import re
from pathlib import Path

import numpy as np

from edgekiln.errors import SourceError
from edgekiln.sources.gguf.reader import GgufFile

_PART_NAME = re.compile(r"(?P<model>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"
_MAX_PARTS = 99999


class SplitGgufFile(GgufFile):
    """All parts of a split GGUF file: the metadata of the first, the tensors of all.

    Args:
        path: any part.
        count: number of parts, as the part's header says.

    Attributes:
        path: the first part.

    Raises:
        SourceError: a part is missing, or the parts do not belong together.
    """

    def __init__(self, path: Path, count: int) -> None:
        match = _PART_NAME.fullmatch(path.name)
        if match is None or int(match["count"]) != count:
            raise SourceError(
                f"{path} is a part of a GGUF file in {count} parts, but its name does not end in "
                f"-00001-of-{count:05}.gguf: give the parts their names back"
            )
        paths = [path.with_name(f"{match['model']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
        missing = next((part for part in paths if not part.is_file()), None)
        if missing is not None:
            raise SourceError(f"{path} is one of {count} parts of a GGUF file, {missing.name} is missing: download it")
        self.path = paths[0]
        self.tensors = {}
        self._owners: dict[str, GgufFile] = {}
        for number, part_path in enumerate(paths):
            part = GgufFile(part_path)
            if number == 0:
                self.metadata = part.metadata
            if part.get(_COUNT) != count or part.get(_NUMBER) != number:
                raise SourceError(f"{part_path} says that it is another part of a split GGUF file: download it again")
            twice = next((name for name in part.tensors if name in self.tensors), None)
            if twice is not None:
                raise SourceError(f"{part_path} holds {twice}, as an earlier part does: download all parts again")
            self.tensors.update(part.tensors)
            self._owners |= dict.fromkeys(part.tensors, part)
        expected = self.get(_TENSORS, len(self.tensors))
        if expected != len(self.tensors):
            raise SourceError(
                f"{self.path} promises {expected} tensors, its {count} parts hold {len(self.tensors)}: "
                "download all parts again"
            )

    def raw(self, name: str) -> np.ndarray:
        return self._owners[name].raw(name)


def open_file(path: Path) -> GgufFile:
    """Open a GGUF file; of a split file, any part opens all.

    Raises:
        SourceError, UnsupportedModelError: see `GgufFile` and `SplitGgufFile`.
    """
    file = GgufFile(path)
    count = file.get(_COUNT, 0)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _MAX_PARTS:
        raise SourceError(f"{path} is damaged: {_COUNT} is {count!r:.60}; download it again")
    return SplitGgufFile(path, count) if count > 1 else file


def model_name(path: Path) -> str:
    """The name of a GGUF file without its suffix and part number."""
    match = _PART_NAME.fullmatch(path.name)
    return match["model"] if match else path.stem
