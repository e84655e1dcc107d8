"""A GGUF file as a model source, by the names of the `gguf` package and the layouts of the table of architectures.

Tensors are dequantized one at a time. Quantized tensors keep their codes where the layout only permutes whole rows.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.sources.base import ModelSource
from edgekiln.sources.gguf.architectures import ARCHITECTURES
from edgekiln.sources.gguf.config import build_config, parse_config
from edgekiln.sources.gguf.kinds import check_is_model
from edgekiln.sources.gguf.layouts import Merge, Undo
from edgekiln.sources.gguf.names import file_names
from edgekiln.sources.gguf.reader import GgufFile
from edgekiln.sources.gguf.rope import ROPE_FREQUENCIES
from edgekiln.sources.gguf.sampling import sampling_defaults
from edgekiln.sources.gguf.split import open_file
from edgekiln.sources.gguf.tokenizer import convert_tokenizer
from edgekiln.sources.meta_model import meta_model
from edgekiln.sources.quantized.gguf import FLOAT, GROUP, prequantized_gguf, requantized_gguf
from edgekiln.sources.safetensors import check_finite
from edgekiln.sources.weight_conversion import ConvertedWeights

_MATRIX = 2
_EXPERTS = "_exps."  # in names of tensors [E, N, K] of all experts
_BLOCK = re.compile(r"blk\.(\d{1,9})\.")


def open_gguf(model_id: str, name: str, path: Path) -> ModelSource:
    """Open a GGUF file; of a split one, any part opens all. Reads the header and the vocabulary only.

    Args:
        model_id: what the user named, see `ModelSource`.
        name: short name of the model.
        path: the file.

    Raises:
        SourceError: not a GGUF file, truncated or damaged, or without a tensor that the model needs.
        UnsupportedModelError: an architecture, a metadata key or a tensor that cannot be converted.
    """
    file = open_file(path)
    check_is_model(file)
    parsed = parse_config(file)
    tokenizer, notes = convert_tokenizer(file)
    tokens = len(file.get("tokenizer.ggml.tokens"))
    if tokens > parsed["vocab_size"]:
        raise SourceError(
            f"{path} is damaged: its vocabulary has {tokens} tokens, its embedding {parsed['vocab_size']} rows; "
            "download or convert it again"
        )
    config = build_config(file, parsed)
    model = meta_model(config)
    tensors = GgufTensors(file, model, parsed)
    weights = ConvertedWeights(tensors, model, str(path))
    return ModelSource(
        model_id=model_id,
        name=name,
        config=config,
        tokenizer_json=tokenizer.json,
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.special_tokens,
        sampling=sampling_defaults(file),
        weights=weights,
        notes=(*notes, *tensors.notes()),
    )


class GgufTensors:
    """`CheckpointTensors` of a GGUF file, with the model's names and layouts.

    Args:
        file: the GGUF file.
        model: the model on the meta device.
        parsed: the fields of `parse_config`.

    Raises:
        UnsupportedModelError: the file holds a tensor that the model does not have.
    """

    def __init__(self, file: GgufFile, model: PreTrainedModel, parsed: dict[str, Any]) -> None:
        self._model = model
        self.nbytes = sum(info.nbytes for info in file.tensors.values())
        self._file = file
        self._parsed = parsed
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        name = file.get("general.architecture")
        architecture = ARCHITECTURES[name]
        self._undos = [(re.compile(pattern), undo) for pattern, undo in architecture.layouts.items()]
        layers = file.get(f"{name}.block_count")
        found = file_names(self._shapes, name, layers, architecture.merges, file.tensors)
        tied = model.all_tied_weights_keys
        self._parts = {name: parts for name, (parts, _) in found.items() if name not in tied or tied[name] not in found}
        self._merges: dict[str, Merge] = {name: merge for name, (_, merge) in found.items() if merge is not None}
        self._layouts: dict[tuple[tuple[str, tuple[int, ...]], ...], _Layout | None] = {}
        self._processed_shapes: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}
        used = {part for parts, _ in found.values() for part in parts} | {ROPE_FREQUENCIES}
        kept = int(model.config.num_hidden_layers)
        for stored in file.tensors:
            block = _BLOCK.match(stored)
            if stored not in used and not (block and kept <= int(block[1]) < layers):
                raise UnsupportedModelError(
                    f"{file.path} holds {stored}, which {type(model).__name__} has no place for: "
                    "give the model's Hugging Face directory"
                )
        for target, parts in self._parts.items():
            if missing := [part for part in parts if part not in file.tensors]:
                raise SourceError(f"{file.path} lacks {missing[0]} of {target}: download or convert it again")

    def keys(self) -> Iterable[str]:
        return self._parts.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read` gives; the shape of a part in the file if parts cannot be joined.

        Raises:
            SourceError: the metadata contradicts the shape of the tensor.
        """
        parts = self._parts[name]
        shapes = [self._undone_shape(part) for part in parts]
        merge = self._merges.get(name)
        if merge is None:
            return shapes[0]
        try:
            joined = merge.join([np.broadcast_to(np.float32(0), shape) for shape in shapes], self._parsed)
        except (ValueError, IndexError):
            return shapes[0]
        return joined.shape

    def read(self, name: str) -> torch.Tensor:
        parts = []
        for part in self._parts[name]:
            with np.errstate(invalid="ignore", over="ignore"):
                values = self._file.read(part)
            check_finite(torch.from_numpy(values), part, self._file.path)
            parts.append(self._undo(values, part))
        merge = self._merges.get(name)
        weight = parts[0] if merge is None else merge.join(parts, self._parsed)
        return torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float32))

    def prequantized(self, name: str) -> PrequantizedWeight | None:
        """The weight with the file's codes; None if it holds floats, or if its layout does more than move rows."""
        parts, merge = self._parts[name], self._merges.get(name)
        infos = [self._file.tensors[part] for part in parts]
        info, shape = infos[0], self._shapes[name]
        if len(shape) != _MATRIX or any(len(one.shape) != _MATRIX or one.type != info.type for one in infos):
            return None
        transposed = isinstance(self._model.get_submodule(name.rpartition(".")[0]), Conv1D)
        stored = (sum(one.shape[0] for one in infos), info.shape[1])
        if info.shape[1] % GROUP or shape != (stored[::-1] if transposed else stored):
            return None
        # The layout is the same in every layer.
        kind = tuple((_local(part), one.shape) for part, one in zip(parts, infos, strict=True))
        if kind not in self._layouts:
            self._layouts[kind] = self._layout(parts, merge, transposed)
        layout = self._layouts[kind]

        def raw() -> npt.NDArray[np.uint8]:
            found = [self._file.raw(part) for part in parts]
            return found[0] if len(found) == 1 else np.concatenate(found)

        def dequantized() -> npt.NDArray[np.float32]:
            weight = self.read(name).numpy()
            return weight.T if transposed else weight

        if layout is None:
            return requantized_gguf(info.type, "has another layout in the file than in the model", dequantized)
        return prequantized_gguf(info.type, layout.rows, raw, dequantized)

    def notes(self) -> list[str]:
        """For the user, how many tensors of experts are quantized in the file, and floats in an engine."""
        stored = {part for parts in self._parts.values() for part in parts if _EXPERTS in part}
        types = Counter(Kind(self._file.tensors[part].type) for part in sorted(stored))
        return [
            f"{count} tensors of experts in {kind.name} are dequantized and stay in floating point"
            for kind, count in types.items()
            if kind not in FLOAT
        ]

    def _undo_of(self, part: str) -> Undo | None:
        return next((undo for pattern, undo in self._undos if pattern.fullmatch(_local(part))), None)

    def _undo(self, values: npt.NDArray[np.float32], part: str) -> npt.NDArray[np.float32]:
        """Undo the converter's layout of a tensor."""
        undo = self._undo_of(part)
        return values if undo is None else undo(values, self._parsed)

    def _undone_shape(self, part: str) -> tuple[int, ...]:
        shape = self._file.tensors[part].shape
        if self._undo_of(part) is None:
            return shape
        # The shape is the same in every layer.
        kind = (_local(part), shape)
        if kind not in self._processed_shapes:
            try:
                self._processed_shapes[kind] = self._undo(np.broadcast_to(np.float32(-1), shape), part).shape
            except (ValueError, IndexError) as error:
                raise SourceError(
                    f"{self._file.path} holds {part} of shape {list(shape)}, which does not fit its metadata: "
                    "download or convert it again"
                ) from error
        return self._processed_shapes[kind]

    def _layout(self, parts: Sequence[str], merge: Merge | None, transposed: bool) -> "_Layout | None":
        """The permutation of the rows of `parts`, one below the other, that gives a weight; None if it takes more.

        It is found by converting matrices of row indices and of column indices in place of the tensors.
        """
        if merge is None and self._undo_of(parts[0]) is None:
            return None if transposed else _Layout(None)
        moved, kept, first = [], [], 0
        for part in parts:
            shape = self._file.tensors[part].shape
            indices = np.arange(first, first + shape[0], dtype=np.float32)[:, None]
            moved.append(self._undo(np.broadcast_to(indices, shape), part))
            kept.append(self._undo(np.broadcast_to(np.arange(shape[1], dtype=np.float32), shape), part))
            first += shape[0]
        rows, columns = ((pair[0] if merge is None else merge.join(pair, self._parsed)) for pair in (moved, kept))
        if transposed:
            rows, columns = rows.T, columns.T
        width = self._file.tensors[parts[0]].shape[1]
        if rows.shape != (first, width) or (rows != rows[:, :1]).any() or (columns != np.arange(width)).any():
            return None
        return _Layout(rows[:, 0].astype(np.int64))


def _local(part: str) -> str:
    """The name of a tensor within its layer."""
    return _BLOCK.sub("", part, count=1)


@dataclass(frozen=True)
class _Layout:
    """Row permutation of a weight.

    Attributes:
        rows: int64 [N], the row in the file of each row of the weight; None for the identity.
    """

    rows: npt.NDArray[np.int64] | None
