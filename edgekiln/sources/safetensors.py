"""The safetensors of a checkpoint, in one file or in shards with an index. Pickled weights are never loaded."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.errors import SourceError, UnsupportedModelError, one_line
from edgekiln.sources.git_lfs import refuse_pointer
from edgekiln.sources.json_file import read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CHECKED_ELEMENTS = 1 << 22  # at a time
_FLOAT_DTYPES = ("F32", "F16", "BF16", "F64")
# Of tables of integers, such as the experts of each token; narrower integers are codes of quantized weights.
_TABLE_DTYPES = ("I64", "BOOL")


class SafetensorsReader:
    """`CheckpointTensors` over all safetensors of a directory, memory-mapped.

    Attributes:
        nbytes: size of the files, in bytes.

    Raises:
        SourceError: there are no safetensors (pickled weights are never loaded), or a shard is missing or damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._handles: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        self._directory = directory
        self.nbytes = 0
        for path, names in _shards(directory).items():
            self._add(path, names)

    def keys(self) -> Iterable[str]:
        return self._handles.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        """The type of a tensor, as safetensors names it: F32, BF16, F8_E4M3, U8 and so on."""
        return self._dtypes[name]

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor.

        Raises:
            SourceError: it cannot be read, or a value is NaN or infinite.
        """
        return self._checked(name, lambda handle: handle.get_tensor(name))

    def read_expert(self, name: str, index: int) -> torch.Tensor:
        """Read element `index` of the first axis of a tensor.

        Raises:
            SourceError: as `read`.
        """
        return self._checked(name, lambda handle: handle.get_slice(name)[index])

    def _checked(self, name: str, get: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        try:
            tensor = get(self._handles[name])
        except SafetensorError as error:
            raise SourceError(f"{self._directory} has {name} damaged ({one_line(error)}): download it again") from error
        check_finite(tensor, name, self._directory)
        return tensor

    def prequantized(self, _name: str) -> PrequantizedWeight | None:
        """None: safetensors alone say nothing about quantization, see `sources.quantized`."""
        return None

    def check_floating(self, names: Iterable[str]) -> None:
        """Check that tensors are float16, bfloat16, float32 or float64, or tables of integers, see `check_tables`.

        Raises:
            UnsupportedModelError: one has another dtype; the message names both.
        """
        for name in names:
            if self._dtypes[name] not in (*_FLOAT_DTYPES, *_TABLE_DTYPES):
                raise UnsupportedModelError(
                    f"{self._directory} stores {name} as {self._dtypes[name]}, which cannot be read yet: "
                    "give a float32, float16 or bfloat16 checkpoint"
                )

    def check_tables(self, integers: Mapping[str, bool]) -> None:
        """Check that tensors are tables of integers where the model has such, and floats elsewhere.

        Args:
            integers: name in the checkpoint -> whether the model has integers there.

        Raises:
            SourceError: one is not; the message names its dtype.
        """
        for name, wanted in integers.items():
            if name in self._dtypes and wanted != (self._dtypes[name] in _TABLE_DTYPES):
                kind = "integers" if wanted else "floats"
                raise SourceError(
                    f"{self._directory} stores {name} as {self._dtypes[name]}, and its model has {kind} there: "
                    "download it again"
                )

    def _add(self, path: Path, names: list[str] | None) -> None:
        try:
            refuse_pointer(path)
            handle = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise SourceError(f"{path} is truncated or damaged ({one_line(error)}): download it again") from error
        found = set(handle.keys())
        if names is not None and not found.issuperset(names):
            raise SourceError(f"{path} lacks {sorted(set(names) - found)[0]} that {INDEX_FILE} promises")
        for name in sorted(found) if names is None else names:
            view = handle.get_slice(name)
            self._handles[name] = handle
            self._shapes[name] = tuple(view.get_shape())
            self._dtypes[name] = view.get_dtype()
        self.nbytes += path.stat().st_size


def check_finite(tensor: torch.Tensor, name: str, where: object) -> None:
    """Check that every value of a float tensor is finite.

    Args:
        tensor: of any dtype.
        name: its name in the checkpoint, for the error message.
        where: the checkpoint, for the error message.

    Raises:
        SourceError: a value is NaN or infinite.
    """
    if not tensor.is_floating_point() or tensor.dtype.itemsize == 1:
        return
    # A sum is several times as fast as isfinite. It can overflow; only then each value is looked at. Torch copies what
    # it sums to the wider type.
    wide = torch.promote_types(tensor.dtype, torch.float32)
    parts = tensor.reshape(-1).split(_CHECKED_ELEMENTS)
    if all(math.isfinite(part.sum(dtype=wide).item()) for part in parts):
        return
    if wrong := int(tensor.isfinite().logical_not_().sum()):
        values = "a value that is" if wrong == 1 else f"{wrong} values that are"
        raise SourceError(f"{where} holds {name} with {values} NaN or infinite: download it again")


def _shards(directory: Path) -> dict[Path, list[str] | None]:
    """The safetensors files with the tensor names that the index promises in each; None without an index."""
    single, index = directory / SINGLE_FILE, directory / INDEX_FILE
    if single.is_file():
        return {single: None}
    if not index.is_file():
        pickles = [path.name for pattern in _PICKLES for path in sorted(directory.glob(pattern))]
        if pickles:
            raise SourceError(
                f"{directory} has only pickled weights ({pickles[0]}), which can run code when loaded: "
                "convert them to safetensors"
            )
        raise SourceError(f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}: download it again")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceError(f"{index} has no weight_map: download it again")
    shards: dict[Path, list[str] | None] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise SourceError(f"{index} points {name} outside its directory ({file!r}): do not trust this checkpoint")
        path = directory / file
        if path not in shards and not path.is_file():
            raise SourceError(f"{path} is missing: download it again")
        names = shards.setdefault(path, [])
        assert names is not None
        names.append(name)
    return shards
