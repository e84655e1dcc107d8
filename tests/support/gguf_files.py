"""Write small GGUF files of random models, with the names and layouts of llama.cpp's converter."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCAB, LAYERS = 64, 4, 2, 16, 96, 300, 2
BYTE_TOKENS = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256)]] + [
    chr(256 + i) for i in range(68)
]
TOKENS = [*BYTE_TOKENS, "<|begin|>", "<|end|>", "<|turn|>", "he", "ll", "hell", "12", "Ġ1"]
MERGES = ["h e", "l l", "he ll", "Ġ 1", "1 2"]
BEGIN, END, TURN = (TOKENS.index(token) for token in ("<|begin|>", "<|end|>", "<|turn|>"))


def write(path: Path, arch: str, tensors: dict[str, Any], **settings_: Any) -> Path:
    """Write a GGUF file.

    Args:
        path: the file.
        arch: general.architecture.
        tensors: name -> array, or (blocks, quantization type).
        settings_: further metadata: `tokenizer_x` sets tokenizer.ggml.x, any other `x__y` sets <arch>.x.y, and None
            leaves a default out.
    """
    writer = gguf.GGUFWriter(path, arch)
    layer_norm = arch == "gpt2"
    model = {
        "context_length": 128,
        "embedding_length": HIDDEN,
        "block_count": LAYERS,
        "feed_forward_length": 4 * HIDDEN if layer_norm else INNER,
        "attention__head_count": HEADS,
        "attention__head_count_kv": HEADS if layer_norm else KV_HEADS,
        f"attention__layer_norm_{'' if layer_norm else 'rms_'}epsilon": 1e-5,
        "rope__freq_base": None if layer_norm else 10000.0,
        "rope__dimension_count": None if layer_norm else HEAD_DIM,
    }
    vocabulary = {
        "model": "gpt2",
        "tokens": TOKENS,
        "token_type": [3 if token.startswith("<|") else 1 for token in TOKENS],
        "merges": MERGES,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "eot_token_id": TURN,
    }
    metadata = model | {f"tokenizer_{key}": value for key, value in vocabulary.items()} | settings_
    for key, value in metadata.items():
        if value is None:
            continue
        name = f"tokenizer.ggml.{key[10:]}" if key.startswith("tokenizer_") else f"{arch}.{key.replace('__', '.')}"
        add(writer, name, value)
    for name, tensor in tensors.items():
        data, quantized = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(name, data, raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    """Add a metadata key with the type that llama.cpp's converter gives it; large numbers get a larger one."""
    kinds = gguf.GGUFValueType
    kind = kinds.get_type(value)
    if kind == kinds.INT32 and value >= 0:
        kind = kinds.UINT32 if value < 2**32 else kinds.UINT64
    if value == 1e300:
        kind = kinds.FLOAT64
    writer.add_key_value(name, value, kind, kinds.get_type(value[0]) if isinstance(value, list) else None)


def write_tensors(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Iterable[tuple[str, np.ndarray, gguf.GGMLQuantizationType | None]],
) -> None:
    """Write a file with the vocabulary of `TOKENS`.

    Args:
        path: the file.
        architecture: its name, which the keys begin with.
        metadata: keys of the architecture; those that are None are left out.
        tensors: name, values, and the format of values that are blocks.
    """
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if value is not None:
            add(writer, f"{architecture}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["h e"])
    for name, tensor, kind in tensors:
        writer.add_tensor(name, tensor, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 of a shape; the same arguments give the same values."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Permute the rows of a q or k projection as llama.cpp does: the two halves that RoPE rotates are interleaved."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(0, 2, 1, 3).reshape(weight.shape)


def llama_tensors(**extra: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A random llama with transformers' names and layouts, and the same with llama.cpp's, plus `extra` tensors."""
    ours = {"model.embed_tokens.weight": random(VOCAB, HIDDEN), "model.norm.weight": random(HIDDEN)}
    theirs = {"token_embd.weight": ours["model.embed_tokens.weight"], "output_norm.weight": ours["model.norm.weight"]}
    rows = {
        "input_layernorm": ("attn_norm", (HIDDEN,)),
        "post_attention_layernorm": ("ffn_norm", (HIDDEN,)),
        "self_attn.q_proj": ("attn_q", (HEADS * HEAD_DIM, HIDDEN)),
        "self_attn.k_proj": ("attn_k", (KV_HEADS * HEAD_DIM, HIDDEN)),
        "self_attn.v_proj": ("attn_v", (KV_HEADS * HEAD_DIM, HIDDEN)),
        "self_attn.o_proj": ("attn_output", (HIDDEN, HEADS * HEAD_DIM)),
        "mlp.gate_proj": ("ffn_gate", (INNER, HIDDEN)),
        "mlp.up_proj": ("ffn_up", (INNER, HIDDEN)),
        "mlp.down_proj": ("ffn_down", (HIDDEN, INNER)),
    }
    for layer in range(LAYERS):
        for number, (name, (short, shape)) in enumerate(rows.items()):
            weight = random(*shape, seed=100 * layer + number)
            ours[f"model.layers.{layer}.{name}.weight"] = weight
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(short)
            theirs[f"blk.{layer}.{short}.weight"] = interleave(weight, heads) if heads else weight
    return ours, {**theirs, **extra}


def qwen3moe(path: Path, **kinds: gguf.GGMLQuantizationType) -> Path:
    """Write a random Qwen3-MoE with four experts; `kinds` are the formats of tensors, such as ffn_up_exps."""
    _, tensors = llama_tensors()
    tensors["output.weight"] = random(VOCAB, HIDDEN, seed=7)
    for layer in range(LAYERS):
        for name in ("gate", "up", "down"):
            del tensors[f"blk.{layer}.ffn_{name}.weight"]
        tensors[f"blk.{layer}.ffn_gate_inp.weight"] = random(4, HIDDEN, seed=layer)
        tensors[f"blk.{layer}.ffn_gate_exps.weight"] = random(4, 32, HIDDEN, seed=layer)
        tensors[f"blk.{layer}.ffn_up_exps.weight"] = random(4, 32, HIDDEN, seed=layer + 10)
        tensors[f"blk.{layer}.ffn_down_exps.weight"] = random(4, HIDDEN, 32, seed=layer)
        tensors[f"blk.{layer}.attn_q_norm.weight"] = random(HEAD_DIM, seed=layer)
        tensors[f"blk.{layer}.attn_k_norm.weight"] = random(HEAD_DIM, seed=layer + 1)
    quantized = {name: kinds[name.split(".")[-2]] for name in tensors if name.split(".")[-2] in kinds}
    stored = tensors | {name: (gguf.quants.quantize(tensors[name], kind), kind) for name, kind in quantized.items()}
    experts = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
    return write(path, "qwen3moe", stored, attention__key_length=HEAD_DIM, **experts)


def gpt2(path: Path, kind: gguf.GGMLQuantizationType | None = None) -> Path:
    """Write a random GPT-2, whose weights transformers transposes; `kind` is the type of its matrices."""
    shapes = {"attn_qkv": (3 * HIDDEN, HIDDEN), "attn_output": (HIDDEN, HIDDEN)}
    shapes |= {"ffn_up": (4 * HIDDEN, HIDDEN), "ffn_down": (HIDDEN, 4 * HIDDEN)}
    tensors = {"token_embd.weight": random(VOCAB, HIDDEN), "position_embd.weight": random(128, HIDDEN)}
    norms = ["output_norm", *(f"blk.{layer}.{name}" for layer in range(LAYERS) for name in ("attn_norm", "ffn_norm"))]
    for name in norms:
        tensors |= {f"{name}.weight": random(HIDDEN, seed=1), f"{name}.bias": random(HIDDEN, seed=2)}
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            tensors[f"blk.{layer}.{name}.weight"] = random(*shape, seed=layer)
            tensors[f"blk.{layer}.{name}.bias"] = random(shape[0], seed=layer)
    if kind is not None:
        matrices = [name for name in tensors if name.startswith("blk.") and tensors[name].ndim == 2]
        tensors |= {name: (gguf.quants.quantize(tensors[name], kind), kind) for name in matrices}
    return write(path, "gpt2", tensors)
