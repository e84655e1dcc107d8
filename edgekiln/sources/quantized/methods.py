"""Quantized Hugging Face checkpoints: the table of readers by `quant_method`."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from pydantic import BaseModel, ValidationError

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.sources.quantized import auto_round, awq, bitsandbytes, compressed_tensors, fp8, gptq, hqq, mxfp4
from edgekiln.sources.quantized.grid import DequantizedTensor, QuantizedLayer, Tensors


class Files(Tensors, Protocol):
    """The tensors of a checkpoint, as `SafetensorsReader` gives them."""

    nbytes: int

    def keys(self) -> Iterable[str]: ...


# The quantized tensors of a checkpoint, by their names in the unquantized one.
_Find = Callable[[Tensors, Iterable[str], Any], Mapping[str, QuantizedLayer | DequantizedTensor]]
_METHODS: dict[str, tuple[type[BaseModel], _Find]] = {
    "auto-round": (auto_round.AutoRoundConfig, auto_round.find_layers),
    "awq": (awq.AwqConfig, awq.find_layers),
    "bitsandbytes": (bitsandbytes.BitsAndBytesConfig, bitsandbytes.find_layers),
    "compressed-tensors": (compressed_tensors.CompressedTensorsConfig, compressed_tensors.find_layers),
    "fbgemm_fp8": (fp8.FbgemmFp8Config, fp8.find_layers),
    "fp8": (fp8.Fp8Config, fp8.find_layers),
    "gptq": (gptq.GptqConfig, gptq.find_layers),
    "hqq": (hqq.HqqConfig, hqq.find_layers),
    "mxfp4": (mxfp4.Mxfp4Config, mxfp4.find_layers),
}
# AutoRound's name in old checkpoints.
_RENAMED = {"intel/auto-round": "auto-round"}


def quantization_config(raw: Mapping[str, Any], where: object) -> BaseModel | None:
    """Validate the quantization_config of a config.json.

    Args:
        raw: config.json.
        where: the checkpoint, for error messages.

    Returns:
        The configuration of the method; None if the weights are not quantized.

    Raises:
        UnsupportedModelError: the method, or the value of a field, cannot be read.
    """
    text = raw.get("text_config")
    parts = [raw, text] if isinstance(text, dict) else [raw]
    names = ("quantization_config", "compression_config")
    quantization = next((found for part in parts for name in names if (found := part.get(name))), None)
    if not quantization:
        return None
    if not isinstance(quantization, dict):
        raise UnsupportedModelError(f"{where} has a quantization_config of an unknown kind: {quantization!r:.60}")
    # Old checkpoints of bitsandbytes and compressed-tensors do not name the method.
    method = quantization.get("quant_method")
    if method is None and "config_groups" in quantization:
        method = "compressed-tensors"
    elif method is None and ("load_in_4bit" in quantization or "load_in_8bit" in quantization):
        method = "bitsandbytes"
    if isinstance(method, str):
        method = _RENAMED.get(method, method)
    if not isinstance(method, str) or method not in _METHODS:
        raise UnsupportedModelError(
            f"{where} is quantized with {method!s:.60}, which cannot be read yet (can: {', '.join(_METHODS)}): "
            "give the unquantized checkpoint"
        )
    try:
        return _METHODS[method][0].model_validate({**quantization, "quant_method": method})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UnsupportedModelError(
            f"{where} is quantized with {method} and {field} {first.get('input')!r:.60}, which cannot be read yet "
            f"({first['msg'][0].lower()}{first['msg'][1:]}): give the unquantized checkpoint"
        ) from error


class PrequantizedTensors:
    """`CheckpointTensors` of a quantized checkpoint, under the names of the unquantized checkpoint.

    Args:
        files: the tensors in the checkpoint.
        config: its `quantization_config`.
        where: the checkpoint, for error messages.

    Attributes:
        floats: names of the tensors that are not quantized.
        nbytes: size of the checkpoint, in bytes.
        notes: for the user, which weights are not kept.

    Raises:
        SourceError: tensors are missing, or their shapes or values contradict each other.
        UnsupportedModelError: codes or groups that engines do not support; the message names them.
    """

    def __init__(self, files: Files, config: BaseModel, where: object) -> None:
        method, find = next((name, find) for name, (kind, find) in _METHODS.items() if isinstance(config, kind))
        names = list(files.keys())
        self.nbytes = files.nbytes
        self._files = files
        self._layers = dict(find(files, names, config))
        if not self._layers:
            raise SourceError(
                f"{where} has a quantization_config that says {method}, and none of its tensors is quantized that way: "
                "remove the entry if the weights are floats"
            )
        parts = {part for layer in self._layers.values() for part in layer.parts}
        self.floats = [name for name in names if name not in parts]
        forms = Counter(layer.form for layer in self._layers.values() if isinstance(layer, DequantizedTensor))
        self.notes = [
            f"engines have no {form}: {count} weights are dequantized, and quantized again as the preset says"
            for form, count in forms.items()
        ]

    def keys(self) -> Iterable[str]:
        return [*self.floats, *self._layers]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._layers[name].shape if name in self._layers else self._files.shape(name)

    def read(self, name: str) -> torch.Tensor:
        """The tensor; a quantized one is dequantized to float32."""
        layer = self._layers.get(name)
        if layer is None:
            return self._files.read(name)
        return torch.from_numpy(layer.read())

    def read_expert(self, name: str, index: int) -> torch.Tensor:
        """Element `index` of the first axis of a tensor; of a quantized one dequantized to float32."""
        layer = self._layers.get(name)
        if layer is None:
            return self._files.read_expert(name, index)
        return torch.from_numpy(layer.read()[index] if layer.read_expert is None else layer.read_expert(index))

    def prequantized(self, name: str) -> PrequantizedWeight | None:
        """The weight with the checkpoint's codes and scales; None if it holds floats, or is read as floats."""
        layer = self._layers.get(name)
        return layer.weight if isinstance(layer, QuantizedLayer) else None
