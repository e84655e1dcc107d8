"""Write quantized checkpoints in the published layout of each format, with the weights that they dequantize to."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from support.models import save_checkpoint

NF4 = np.array(
    [
        *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0),
        *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
    ],
    dtype=np.float32,
)


@dataclass
class Quantized:
    """A weight that is quantized round-to-nearest: scale * (code - zero).

    Attributes:
        codes: int64 [N, K], from 0 to 2^bits - 1.
        scales: float32 [N, G].
        zeros: int64 [N, G], zero points.
        group_of: int64 [K], group of each column.
        bits: bits of a code.
    """

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    group_of: np.ndarray
    bits: int

    @property
    def weight(self) -> np.ndarray:
        """The dequantized weight, float32 [N, K]."""
        centred = self.codes - self.zeros[:, self.group_of]
        return np.asarray(centred * self.scales[:, self.group_of], dtype=np.float32)


def quantize(
    weight: np.ndarray, bits: int, group_size: int, symmetric: bool, group_of: np.ndarray | None = None
) -> Quantized:
    """Quantize a weight round-to-nearest; `group_of` [K] is the group of each column, consecutive by default."""
    columns = weight.shape[1]
    group_of = np.arange(columns) // group_size if group_of is None else group_of
    parts = [weight[:, group_of == g] for g in range(columns // group_size)]
    low, high = (np.stack([limit(part, axis=1) for part in parts], axis=1) for limit in (np.min, np.max))
    top = (1 << bits) - 1
    if symmetric:
        scales = np.maximum(-low, high) / (top / 2)
        zeros = np.full(scales.shape, 1 << bits - 1)
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scales = (high - low) / top
        zeros = np.rint(-low / scales).astype(np.int64)
    scales = scales.astype(np.float16).astype(np.float32)
    codes = np.rint(weight / scales[:, group_of]) + zeros[:, group_of]
    return Quantized(np.clip(codes, 0, top).astype(np.int64), scales, zeros, group_of, bits)


def words(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack codes [..., n] into int32 words [..., n * bits / 32], the first code in the least significant bits."""
    parts = codes.reshape(*codes.shape[:-1], -1, 32 // bits).astype(np.uint64)
    shifted = parts << np.arange(0, 32, bits, dtype=np.uint64)
    return np.bitwise_or.reduce(shifted, axis=-1).astype(np.uint32).view(np.int32)


Tensors = dict[str, np.ndarray]  # or torch tensors, where numpy lacks the type


def gptq(g: Quantized, *, version: int = 1, indices: bool = True) -> Tensors:
    """GPTQ's tensors of a layer."""
    zeros = words(g.zeros.T, g.bits).view(np.uint32)
    if version == 1:
        # Zero points are stored minus 1. The subtraction is of whole words, so that a zero point of 0 borrows.
        zeros = zeros - np.uint32(0x11111111 if g.bits == 4 else 0x01010101)
    tensors = {
        "qweight": words(g.codes, g.bits).T,
        "qzeros": zeros.view(np.int32),
        "scales": g.scales.T.astype(np.float16),
    }
    return tensors | ({"g_idx": g.group_of.astype(np.int32)} if indices else {})


def awq(g: Quantized) -> Tensors:
    """AWQ's tensors of a layer, in the GEMM layout."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def packed(codes: np.ndarray) -> np.ndarray:
        return words(codes.reshape(len(codes), -1, 8)[..., order].reshape(codes.shape), 4)

    return {"qweight": packed(g.codes.T), "qzeros": packed(g.zeros.T), "scales": g.scales.T.astype(np.float16)}


def packed_integers(g: Quantized, *, symmetric: bool, indices: bool = False) -> Tensors:
    """compressed-tensors' pack-quantized tensors of a layer."""
    tensors = {
        "weight_packed": words(g.codes, g.bits),
        "weight_scale": g.scales,
        "weight_shape": np.array(g.codes.shape, dtype=np.int64),
    }
    if not symmetric:
        tensors["weight_zero_point"] = words(g.zeros.T, g.bits).T
    return tensors | ({"weight_g_idx": g.group_of.astype(np.int32)} if indices else {})


def integers(g: Quantized, **more: np.ndarray) -> Tensors:
    """compressed-tensors' int-quantized tensors of a layer."""
    return {"weight": (g.codes - 128).astype(np.int8), "weight_scale": g.scales, **more}


def nf4(weight: np.ndarray, *, nested: bool) -> tuple[Tensors, np.ndarray]:
    """bitsandbytes' NF4 tensors of a layer, `nested` with double quantization, and the dequantized weight."""
    blocks = weight.reshape(-1, 64)
    scales = np.abs(blocks).max(axis=1)
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(weight.shape)}
    extra: Tensors = {"weight.quant_map": NF4}
    if nested:
        # Double quantization: the scales minus their mean, in blocks of 256, as 8-bit codes into a table in [-1, 1].
        table = np.linspace(-1, 1, 256, dtype=np.float32)
        offset = float(np.float32(scales.mean()))
        parts = np.pad(scales - offset, (0, -len(scales) % 256)).reshape(-1, 256)
        largest = np.abs(parts).max(axis=1).astype(np.float32)
        codes = np.abs(parts[..., None] / largest[:, None, None] - table).argmin(axis=-1)
        scales = (table[codes] * largest[:, None] + np.float32(offset)).reshape(-1)[: len(scales)]
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
        extra |= {"weight.nested_absmax": largest, "weight.nested_quant_map": table}
        extra["weight.absmax"] = codes.reshape(-1)[: len(scales)].astype(np.uint8)
    else:
        extra["weight.absmax"] = scales.astype(np.float32)
    chosen = np.abs(blocks[..., None] / scales[:, None, None] - NF4).argmin(axis=-1)
    flat = chosen.reshape(-1)
    extra["weight"] = (flat[0::2] << 4 | flat[1::2]).astype(np.uint8)[:, None]
    extra["weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(state).encode(), dtype=np.uint8)
    return extra, np.asarray(NF4[chosen] * scales[:, None], dtype=np.float32).reshape(weight.shape)


def llm_int8(weight: np.ndarray) -> tuple[Tensors, np.ndarray]:
    """bitsandbytes' LLM.int8() tensors of a layer, and the dequantized weight."""
    largest = np.abs(weight).max(axis=1).astype(np.float32)
    codes = np.rint(weight / largest[:, None] * 127).astype(np.int8)
    tensors = {"weight": codes, "SCB": largest, "weight_format": np.array(0, dtype=np.uint8)}
    return tensors, np.asarray(codes * (largest / np.float32(127))[:, None], dtype=np.float32)


def shuffled(columns: int, group_size: int) -> np.ndarray:
    """Groups of randomly permuted columns, as act-order gives them."""
    return np.random.default_rng(columns).permutation(columns) // group_size


@dataclass(frozen=True)
class Format:
    """A format of quantized checkpoints.

    Attributes:
        config: its quantization_config.
        write: converts a float weight [N, K] to the tensors of a layer and the weight that they dequantize to.
        bits: bits of a code.
        quant: preset under which the codes are kept.
    """

    config: dict[str, Any]
    write: Callable[[np.ndarray], tuple[Tensors, np.ndarray]]
    bits: int
    quant: str = "int4"


def _on(make: Callable[[np.ndarray], Quantized], write: Callable[..., Tensors], **options: Any) -> Any:
    def both(weight: np.ndarray) -> tuple[Tensors, np.ndarray]:
        g = make(weight)
        return write(g, **options), g.weight

    return both


def _gptq(bits: int, symmetric: bool, *, group_size: int = 32, order: bool = False, **options: Any) -> Format:
    config = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "desc_act": order, "sym": symmetric}
    if options.get("version") == 2:
        config["checkpoint_format"] = "gptq_v2"

    def make(weight: np.ndarray) -> Quantized:
        columns = weight.shape[1]
        size = columns if group_size == -1 else group_size
        return quantize(weight, bits, size, symmetric, shuffled(columns, size) if order else None)

    return Format(config, _on(make, gptq, **options), bits)


def _compressed(bits: int, group_size: int, symmetric: bool, *, quant: str = "int4", **options: Any) -> Format:
    plain = options.pop("plain", False)
    order = bool(options.get("indices"))
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric}
    config = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized" if plain else "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }

    def make(weight: np.ndarray) -> Quantized:
        columns = weight.shape[1]
        size = columns if group_size == -1 else group_size
        return quantize(weight, bits, size, symmetric, shuffled(columns, size) if order else None)

    write = _on(make, integers, **options) if plain else _on(make, packed_integers, symmetric=symmetric, **options)
    return Format(config, write, bits, quant)


def _bitsandbytes(four: bool, write: Any) -> Format:
    config = {"quant_method": "bitsandbytes", "load_in_4bit": four, "load_in_8bit": not four}
    return Format({**config, "bnb_4bit_quant_type": "nf4"}, write, 4 if four else 8)


_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
FORMATS: dict[str, Format] = {
    "gptq symmetric": _gptq(4, True),
    "gptq asymmetric": _gptq(4, False),
    "gptq v2": _gptq(4, False, version=2, indices=False),
    "gptq act-order": _gptq(4, False, order=True),
    "gptq channel": _gptq(4, True, group_size=-1),
    "gptq 8 bit": _gptq(8, False, group_size=64),
    "awq": Format(_AWQ, _on(lambda weight: quantize(weight, 4, 32, False), awq), 4),
    "packed symmetric": _compressed(4, 32, True),
    "packed asymmetric": _compressed(4, 32, False),
    "packed act-order": _compressed(4, 32, True, indices=True),
    "packed channel 8 bit": _compressed(8, -1, True),
    "int8 weights": _compressed(8, -1, True, plain=True),
    "int8 weights and activations": _compressed(8, -1, True, plain=True, quant="int8", input_scale=np.ones(1, "f4")),
    "nf4": _bitsandbytes(True, lambda weight: nf4(weight, nested=False)),
    "nf4 twice": _bitsandbytes(True, lambda weight: nf4(weight, nested=True)),
    "llm.int8": _bitsandbytes(False, llm_int8),
}


def write_quantized(directory: Path, form: Format, **overrides: Any) -> dict[str, np.ndarray]:
    """Write a tiny random llama whose linear layers except the head are in a format; `overrides` change its config.

    Returns:
        The dequantized weights of these layers, by name.
    """
    save_checkpoint(directory, "llama", **{"num_hidden_layers": 2, **overrides})
    weights = quantize_layers(directory, form, "_proj.weight")
    change_config(directory, **form.config)
    return weights


def quantize_layers(directory: Path, form: Format, suffix: str) -> dict[str, np.ndarray]:
    """Write the linear layers of a checkpoint whose names end in `suffix` in a format; config.json stays as it is.

    Returns:
        The dequantized weights of these layers, by name.
    """
    file = directory / "model.safetensors"
    tensors, weights = load_file(file), {}
    for name in [name for name in tensors if name.endswith(suffix)]:
        parts, weights[name] = form.write(tensors.pop(name).numpy())
        for part, value in parts.items():
            stored = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value, order="C"))
            tensors[f"{name.removesuffix('weight')}{part}"] = stored.contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    return weights


def change_config(directory: Path, **changes: Any) -> None:
    """Set fields of the quantization_config."""
    file = directory / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"] = {**config.get("quantization_config", {}), **changes}
    file.write_text(json.dumps(config))
