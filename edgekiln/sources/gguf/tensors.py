"""A GGUF file as a model source: transformers' own name and layout mapping, tensors dequantized one by one.

Quantized ones are offered as they stand in the file too, where that mapping moves no more than whole rows.
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
from edgekiln.engine.manifest import SamplingDefaults
from edgekiln.errors import UnsupportedModelError
from edgekiln.sources.base import ModelSource
from edgekiln.sources.gguf.config import ROPE_FREQUENCIES, build_config, parse_config
from edgekiln.sources.gguf.reader import GgufFile
from edgekiln.sources.gguf.tokenizer import convert_tokenizer
from edgekiln.sources.quantized.gguf import GROUP, stored_gguf
from edgekiln.sources.weight_conversion import ConvertedWeights, meta_model


def open_gguf(reference: str, name: str, path: Path) -> ModelSource:
    """Open a GGUF file; reads the header and the vocabulary only.

    Raises:
        SourceError: not a GGUF file, truncated or damaged, or without what the model needs.
        UnsupportedModelError: an architecture, a setting or a tensor that cannot be carried.
    """
    file = GgufFile(path)
    parsed = parse_config(file)
    config = build_config(file, parsed)
    stored = MappedTensors(file, meta_model(config), parsed)
    weights = ConvertedWeights(stored, stored.model, str(path))
    tokenizer, notes = convert_tokenizer(file, config)
    return ModelSource(
        reference=reference,
        name=name,
        config=config,
        tokenizer_json=tokenizer.json,
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.tokens,
        sampling=SamplingDefaults(),
        weights=weights,
        notes=notes,
    )


class MappedTensors:
    """GGUF tensors by the model's names and in the model's layout (llama.cpp permutes, transposes and splits some).

    Raises:
        UnsupportedModelError: the file holds a tensor that the model has no place for.
    """

    def __init__(self, file: GgufFile, model: PreTrainedModel, parsed: dict[str, Any]) -> None:
        self.model = model
        self.nbytes = sum(info.nbytes for info in file.tensors.values())
        self._file = file
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        architecture = file.get("general.architecture")
        self._processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=parsed)
        self._names: dict[str, str] = get_gguf_hf_weights_map(
            _Names(model, model.config, model.base_model_prefix), self._processor
        )
        self._layouts: dict[tuple[str, tuple[int, ...]], _Layout | None] = {}
        self._parts: dict[str, list[str]] = {}
        for name in file.tensors:
            # Experts are mapped without their suffix.
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
        """The model's shape if the stored tensors can be laid out to it, else the stored one."""
        wanted = self._shapes.get(name, ())
        stored = [self._file.tensors[part].shape for part in self._parts[name]]
        if len(stored) == 1 and sorted(stored[0]) != sorted(size for size in wanted if size != 1 or 1 in stored[0]):
            return stored[0]
        if sum(np.prod(shape) for shape in stored) != np.prod(wanted):
            return stored[0]
        return wanted

    def read(self, name: str) -> torch.Tensor:
        # Processors of merged tensors write into this dictionary instead of returning.
        collected: dict[str, torch.Tensor] = {}
        for part in self._parts[name]:
            weights = self._laid_out(self._file.read(part), part, collected)
            if weights is not None:
                collected[name] = torch.from_numpy(np.ascontiguousarray(weights))
        return collected[name]

    def stored(self, name: str) -> PrequantizedWeight | None:
        """The weight as it stands in the file; None where it is float or not laid out in whole rows."""
        part, info = self._parts[name][0], self._file.tensors[self._parts[name][0]]
        if len(self._parts[name]) > 1 or len(info.shape) != 2 or info.shape[1] % GROUP:
            return None
        transposed = isinstance(self.model.get_submodule(name.rpartition(".")[0]), Conv1D)
        if self._shapes[name] != (info.shape[::-1] if transposed else info.shape):
            return None
        # Layers are laid out alike.
        kind = (re.sub(r"^blk\.\d+\.", "", part), info.shape)
        if kind not in self._layouts:
            self._layouts[kind] = self._layout(part, info.shape, transposed)
        layout = self._layouts[kind]
        if layout is None:
            return None

        def dequantized() -> npt.NDArray[np.float32]:
            weight = self.read(name).numpy()
            return weight.T if transposed else weight

        return stored_gguf(info.type, layout.rows, lambda: self._file.raw(part), dequantized)

    def _laid_out(
        self, weights: npt.NDArray[np.float32], part: str, collected: dict[str, torch.Tensor]
    ) -> npt.NDArray[np.float32] | None:
        """What transformers makes of a stored tensor; None if that went into `collected`."""
        result = self._processor.process(
            weights=weights, name=part, tensor_key_mapping=self._names, parsed_parameters={"tensors": collected}
        )
        return None if result.name is None else result.weights

    def _layout(self, part: str, shape: tuple[int, ...], transposed: bool) -> "_Layout | None":
        """Where each row [N] of the weight stands in the file, found by laying out row and column numbers; None if
        its rows do not stay whole."""
        rows = np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None], shape)
        moved = self._laid_out(rows, part, {})
        if moved is rows:
            return _Layout(None)
        columns = np.broadcast_to(np.arange(shape[1], dtype=np.float32), shape)
        kept = self._laid_out(columns, part, {})
        if moved is None or kept is None:
            return None
        if transposed:
            moved, kept = moved.T, kept.T
        if moved.shape != shape or (moved != moved[:, :1]).any() or (kept != columns).any():
            return None
        return _Layout(moved[:, 0].astype(np.int64))


@dataclass(frozen=True)
class _Layout:
    """For each row of a weight its row in the file; None where they are the same."""

    rows: npt.NDArray[np.int64] | None


class _Names:
    """The part of a model that transformers' name mapping looks at.

    Given the model it builds gguf's whole table again for each module (14 s for 30 layers); only the model itself and
    its decoder, whose names some files use, can matter.
    """

    def __init__(self, model: torch.nn.Module, config: PretrainedConfig, decoder: str = "") -> None:
        self.config = config
        self._model = model
        self._decoder = decoder

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._model.state_dict()

    def named_children(self) -> list[tuple[str, "_Names"]]:
        child = getattr(self._model, self._decoder, None) if self._decoder else None
        return [(self._decoder, _Names(child, self.config))] if isinstance(child, torch.nn.Module) else []
