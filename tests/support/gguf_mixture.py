"""Write a random mixture as a GGUF file, with experts in any format."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind

from support.gguf_files import LAYERS, llama_tensors, write

EXPERTS = 4


def blocks(kind: Kind, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Random weights in a format, as bytes [..., bytes per row]."""
    block, size = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng([kind.value, seed])
    try:
        return gguf.quants.quantize(0.1 * rng.standard_normal(shape, np.float32), kind)
    except NotImplementedError:  # the package only dequantizes it
        raw = rng.integers(0, 256, (*shape[:-1], shape[-1] // block, size), dtype=np.uint8)
        scale = np.float16(0.0005).tobytes()
        for places in {"IQ1_M": ((-7, 0x20), (-5, 0x20), (-3, 0), (-1, 0))}.get(kind.name, ()):
            raw[..., places[0]] = places[1]
        if kind == Kind.NVFP4:
            raw[..., :4] = 0x18 + raw[..., :4] % 16
        elif kind in (Kind.Q3_K, Kind.Q6_K):
            raw[..., -2:] = np.frombuffer(scale, np.uint8)
        elif kind == Kind.Q2_K:
            raw[..., -4:] = np.frombuffer(2 * scale, np.uint8)
        elif kind in (Kind.Q4_K, Kind.Q5_K):
            raw[..., :4] = np.frombuffer(2 * scale, np.uint8)
        elif kind != Kind.IQ1_M:
            raw[..., :2] = np.frombuffer(scale, np.uint8)
        return raw.reshape(*shape[:-1], -1)


def write_mixture(path: Path, gate: Kind, up: Kind, down: Kind, width: int = 256) -> Path:
    """A random Qwen3-MoE with experts of `width` by `width` in these formats."""
    _, tensors = llama_tensors()
    rng = np.random.default_rng(0)
    stored: dict[str, Any] = {}
    for name, value in {**tensors, "output.weight": tensors["token_embd.weight"]}.items():
        if "ffn_gate" in name or "ffn_up" in name or "ffn_down" in name:
            continue
        # The width of the model is that of the experts.
        shape = tuple(width if size == 64 and axis == value.ndim - 1 else size for axis, size in enumerate(value.shape))
        if name.endswith("attn_output.weight"):
            shape = (width, 64)
        stored[name] = rng.standard_normal(shape, np.float32)
    for layer in range(LAYERS):
        stored[f"blk.{layer}.ffn_gate_inp.weight"] = rng.standard_normal((EXPERTS, width), np.float32)
        for part in ("attn_q_norm", "attn_k_norm"):
            stored[f"blk.{layer}.{part}.weight"] = rng.standard_normal(16, np.float32)
        for number, (part, kind) in enumerate({"gate": gate, "up": up, "down": down}.items()):
            value = (
                rng.standard_normal((EXPERTS, width, width), np.float32)
                if kind == Kind.F32
                else (blocks(kind, (EXPERTS, width, width), 10 * layer + number), kind)
            )
            stored[f"blk.{layer}.ffn_{part}_exps.weight"] = value
    experts = {"expert_count": EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": width}
    return write(path, "qwen3moe", stored, embedding_length=width, attention__key_length=16, **experts)
