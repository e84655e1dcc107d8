"""A GGUF file as a model source, by the names of the `gguf` package and the layouts of the table of architectures.

Tensors are dequantized one at a time. Quantized tensors keep their codes where the layout only permutes whole rows.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
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
from edgekiln.sources.quantized.gguf import FLOAT, GROUP, more_bits, prequantized_gguf, requantized_gguf
from edgekiln.sources.quantized.merge import CodesNotKeptError, kept_or_none, merge, notes_of, stack
from edgekiln.sources.row_order import numbered, row_order
from edgekiln.sources.safetensors import check_finite
from edgekiln.sources.weight_conversion import ConvertedWeights

_MATRIX, _STACK = 2, 3
_LAYOUT = "their layout in the file differs from that of the model by more than the order of rows"
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
        self._rows: dict[tuple[tuple[str, tuple[int, ...]], ...], npt.NDArray[np.int64] | None] = {}
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
        weight = self._joined(name, [self._values(part) for part in self._parts[name]])
        return torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float32))

    def read_expert(self, name: str, index: int) -> torch.Tensor:
        """Element `index` of the first axis of a tensor; of stacked experts, no other is read."""
        if not self._is_stack(name):
            return self.read(name)[index]
        weight = self._joined(name, [self._values(part, index)[None] for part in self._parts[name]])[0]
        return torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float32))

    def prequantized(self, name: str) -> PrequantizedWeight | None:
        """The weight with the file's codes; None if it holds floats, or if codes cannot be kept."""
        return kept_or_none(self._kept, name)

    def notes(self) -> list[str]:
        """For the user, how many weights that are quantized in the file become floats, and why."""
        return notes_of(self._kept, self._parts)

    def _kept(self, name: str) -> PrequantizedWeight | None:
        infos = [self._file.tensors[part] for part in self._parts[name]]
        shapes = [info.shape for info in infos]
        if shapes[0][-1] % GROUP or any(shape[-1] != shapes[0][-1] for shape in shapes):
            return None
        if all(len(shape) == len(self._shapes[name]) == _MATRIX for shape in shapes):
            return self._matrix(name)
        if not self._is_stack(name):
            if any(info.type not in FLOAT for info in infos):
                raise CodesNotKeptError(_LAYOUT)
            return None
        experts = [self._matrix(name, index) for index in range(shapes[0][0])]
        found = [expert for expert in experts if expert is not None]
        return stack(found) if found else None

    def _matrix(self, name: str, expert: int | None = None) -> PrequantizedWeight | None:
        """The weight [N, K] of a matrix, or of one expert of a stack."""
        parts = self._parts[name]
        weights = [self._part(part, expert) for part in parts]
        found = [weight for weight in weights if weight is not None]
        if not found:
            return None
        if len(found) < len(weights):
            raise CodesNotKeptError("some parts of a layer are floats in the file, others are quantized")
        # The rows are in the same order in every layer, and for every expert.
        kind = tuple((_local(part), self._file.tensors[part].shape) for part in parts)
        if kind not in self._rows:
            self._rows[kind] = self._order(name)
        rows = self._rows[kind]
        if rows is not None:
            return merge(found, rows)
        if expert is not None:
            raise CodesNotKeptError(_LAYOUT)
        transposed = isinstance(self._model.get_submodule(name.rpartition(".")[0]), Conv1D)

        def dequantized() -> npt.NDArray[np.float32]:
            weight = self.read(name).numpy()
            return weight.T if transposed else weight

        why = "has another layout in the file than in the model"
        return requantized_gguf(self._file.tensors[parts[0]].type, why, dequantized)

    def _part(self, part: str, expert: int | None) -> PrequantizedWeight | None:
        kind = self._file.tensors[part].type
        dequantized = partial(self._values, part, expert)
        if expert is None:
            return prequantized_gguf(kind, partial(self._file.raw, part), dequantized)
        weight = prequantized_gguf(kind, partial(self._file.raw_expert, part, expert), dequantized)
        if weight is None or weight.note:
            return weight
        others = tuple(replace(form, note=more_bits(kind, form.scheme)) for form in weight.others)
        return replace(weight, note=more_bits(kind, weight.scheme), others=others)

    def _order(self, name: str) -> npt.NDArray[np.int64] | None:
        """The row in the file, counted through all parts, of each row of a weight; None if it takes more."""
        numbers, first = [], 0
        stack = self._is_stack(name)
        for part in self._parts[name]:
            rows, columns = self._file.tensors[part].shape[-2:]
            matrix = numbered(rows, columns, first, np.float64)
            numbers.append(matrix[None] if stack else matrix)
            first += rows
        with np.errstate(invalid="ignore", divide="ignore"):
            joined = self._joined(name, numbers)
        return row_order(joined[0] if stack else joined, columns)

    def _is_stack(self, name: str) -> bool:
        """Whether a tensor is of experts, stacked in the file as in the model."""
        shape = self._shapes[name]
        stored = [self._file.tensors[part].shape for part in self._parts[name]]
        return len(shape) == _STACK and all(len(one) == _STACK and one[0] == shape[0] for one in stored)

    def _values(self, part: str, expert: int | None = None) -> npt.NDArray[np.float32]:
        """A tensor of the file, or one expert of it, dequantized."""
        with np.errstate(invalid="ignore", over="ignore"):
            values = self._file.read(part) if expert is None else self._file.read_expert(part, expert)
        check_finite(torch.from_numpy(values), part, self._file.path)
        return values

    def _joined(self, name: str, values: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Convert the parts of a tensor to the layout of the model, and join them."""
        undone = [self._undo(value, part) for value, part in zip(values, self._parts[name], strict=True)]
        merge = self._merges.get(name)
        return undone[0] if merge is None else merge.join(undone, self._parsed)

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


def _local(part: str) -> str:
    """The name of a tensor within its layer."""
    return _BLOCK.sub("", part, count=1)
