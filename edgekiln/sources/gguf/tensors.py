"""A GGUF file as a model source, by transformers' own mapping of tensor names and layouts.

Tensors are dequantized one at a time. Quantized tensors keep their codes where the mapping only permutes whole rows.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map
from transformers.pytorch_utils import Conv1D

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.sources.base import ModelSource
from edgekiln.sources.gguf.config import build_config, parse_config
from edgekiln.sources.gguf.kinds import check_is_model
from edgekiln.sources.gguf.reader import GgufFile
from edgekiln.sources.gguf.rope import ROPE_FREQUENCIES
from edgekiln.sources.gguf.sampling import sampling_defaults
from edgekiln.sources.gguf.split import open_file
from edgekiln.sources.gguf.tokenizer import convert_tokenizer
from edgekiln.sources.meta_model import meta_model
from edgekiln.sources.quantized.gguf import GROUP, prequantized_gguf
from edgekiln.sources.safetensors import check_finite
from edgekiln.sources.weight_conversion import ConvertedWeights

_MATRIX = 2


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
    weights = ConvertedWeights(GgufTensors(file, model, parsed), model, str(path))
    return ModelSource(
        model_id=model_id,
        name=name,
        config=config,
        tokenizer_json=tokenizer.json,
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.special_tokens,
        sampling=sampling_defaults(file),
        weights=weights,
        notes=notes,
    )


class GgufTensors:
    """`CheckpointTensors` of a GGUF file, with the model's names and layouts.

    llama.cpp's converter permutes, transposes, merges or splits some tensors; transformers' `TensorProcessor` of the
    architecture undoes that.

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
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        architecture = file.get("general.architecture")
        self._processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=parsed)
        self._names: dict[str, str] = get_gguf_hf_weights_map(
            _NameScope(model, model.config, model.base_model_prefix), self._processor
        )
        self._processed_shapes: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}
        self._layouts: dict[tuple[str, tuple[int, ...]], _Layout | None] = {}
        self._parts: dict[str, list[str]] = {}
        for name in file.tensors:
            # The mapping names the tensors of MoE experts without ".weight".
            target = self._names.get(name) or self._names.get(name.removesuffix(".weight"))
            if target is not None:
                self._parts.setdefault(target, []).append(name)
            elif name != ROPE_FREQUENCIES:
                raise UnsupportedModelError(
                    f"{file.path} holds {name}, which {type(model).__name__} has no place for: "
                    "give the model's Hugging Face directory"
                )

    def keys(self) -> Iterable[str]:
        return self._parts.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read` gives; the shape in the file if that of merged tensors does not fit.

        Raises:
            SourceError: the metadata contradicts the shape of the tensor.
        """
        wanted, parts = self._shapes.get(name, ()), self._parts[name]
        stored = [self._file.tensors[part].shape for part in parts]
        if len(parts) > 1:
            # transformers' merged experts: [experts, gate and up, hidden].
            merged = (stored[0][0], sum(shape[1] for shape in stored if len(shape) > 1), *stored[0][2:])
            return merged if set(stored) == {stored[0]} and merged == wanted else stored[0]
        return self._processed_shape(parts[0], stored[0])

    def read(self, name: str) -> torch.Tensor:
        # Processors of merged tensors write into this dictionary instead of returning the tensor.
        collected: dict[str, torch.Tensor] = {}
        for part in self._parts[name]:
            with np.errstate(invalid="ignore", over="ignore"):
                values = self._file.read(part)
            check_finite(torch.from_numpy(values), part, self._file.path)
            weights = self._process(values, part, collected)
            if weights is not None:
                collected[name] = torch.from_numpy(np.ascontiguousarray(weights))
        return collected[name]

    def prequantized(self, name: str) -> PrequantizedWeight | None:
        """The weight with the file's codes; None if it holds floats, or if the mapping splits rows."""
        part, info = self._parts[name][0], self._file.tensors[self._parts[name][0]]
        if len(self._parts[name]) > 1 or len(info.shape) != 2 or info.shape[1] % GROUP:
            return None
        transposed = isinstance(self._model.get_submodule(name.rpartition(".")[0]), Conv1D)
        if self._shapes[name] != (info.shape[::-1] if transposed else info.shape):
            return None
        # The layout is the same in every layer.
        kind = (re.sub(r"^blk\.\d+\.", "", part), info.shape)
        if kind not in self._layouts:
            self._layouts[kind] = self._layout(part, info.shape, transposed)
        layout = self._layouts[kind]
        if layout is None:
            return None

        def dequantized() -> npt.NDArray[np.float32]:
            weight = self.read(name).numpy()
            return weight.T if transposed else weight

        return prequantized_gguf(info.type, layout.rows, lambda: self._file.raw(part), dequantized)

    def _process(
        self, weights: npt.NDArray[np.float32], part: str, collected: dict[str, torch.Tensor]
    ) -> npt.NDArray[np.float32] | None:
        """Apply transformers' processor to a tensor of the file; None if it put the result into `collected`."""
        result = self._processor.process(
            weights=weights, name=part, tensor_key_mapping=self._names, parsed_parameters={"tensors": collected}
        )
        return None if result.name is None else result.weights

    def _processed_shape(self, part: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        # Experts are large, and are not changed.
        if len(shape) > _MATRIX:
            return shape
        # The shape is the same in every layer.
        kind = (re.sub(r"^blk\.\d+\.", "", part), shape)
        if kind not in self._processed_shapes:
            collected: dict[str, torch.Tensor] = {}
            try:
                result = self._process(np.broadcast_to(np.float32(-1), shape), part, collected)
            except Exception as error:
                # Processors reshape by the metadata's sizes, with exceptions of numpy and torch.
                raise SourceError(
                    f"{self._file.path} holds {part} of shape {list(shape)}, which does not fit its metadata: "
                    "download or convert it again"
                ) from error
            found = result if result is not None else next(iter(collected.values()))
            self._processed_shapes[kind] = tuple(found.shape)
        return self._processed_shapes[kind]

    def _layout(self, part: str, shape: tuple[int, ...], transposed: bool) -> "_Layout | None":
        """The row permutation that transformers applies to a tensor; None if it does more than permute rows.

        It is found by processing a matrix of row indices and a matrix of column indices.
        """
        rows = np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None], shape)
        moved = self._process(rows, part, {})
        if moved is rows:
            return _Layout(None)
        columns = np.broadcast_to(np.arange(shape[1], dtype=np.float32), shape)
        kept = self._process(columns, part, {})
        if moved is None or kept is None:
            return None
        if transposed:
            moved, kept = moved.T, kept.T
        if moved.shape != shape or (moved != moved[:, :1]).any() or (kept != columns).any():
            return None
        return _Layout(moved[:, 0].astype(np.int64))


@dataclass(frozen=True)
class _Layout:
    """Row permutation of a weight.

    Attributes:
        rows: int64 [N], the row in the file of each row of the weight; None for the identity.
    """

    rows: npt.NDArray[np.int64] | None


class _NameScope:
    """The part of a model that transformers' name mapping reads: the model and its decoder, without their modules.

    With the real model, the mapping rebuilds gguf's whole name table for each module, which takes 14 s for 30 layers.
    """

    def __init__(self, model: torch.nn.Module, config: PretrainedConfig, decoder: str = "") -> None:
        self.config = config
        self._model = model
        self._decoder = decoder

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._model.state_dict()

    def named_children(self) -> list[tuple[str, "_NameScope"]]:
        child = getattr(self._model, self._decoder, None) if self._decoder else None
        return [(self._decoder, _NameScope(child, self.config))] if isinstance(child, torch.nn.Module) else []
