"""Write a Hugging Face checkpoint as GGUF files that llama.cpp runs on token ids; runs in llama.cpp's environment.

Usage: llama_convert.py HF_DIRECTORY OUTPUT_PREFIX TYPE...   writes OUTPUT_PREFIX-TYPE.gguf for types such as Q4_0,
from OUTPUT_PREFIX-f16.gguf, which is kept for the next one
"""

import ctypes
import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf import GGUFWriter
from safetensors import safe_open

# Architecture name in llama.cpp, and whether its RoPE pairs adjacent channels (as Meta's checkpoints) or halves.
ARCHITECTURES = {
    "llama": (gguf.MODEL_ARCH.LLAMA, True),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, False),
}


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the output channels of each head from rotate-half to interleaved RoPE pairs."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def write_float(directory: Path, path: Path) -> None:
    """Write the checkpoint in float16, norms in float32, with no vocabulary."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    architecture, adjacent = ARCHITECTURES[config["model_type"]]
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta") or rope["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(architecture, layers)
    with safe_open(directory / "model.safetensors", "np") as weights:
        for name in weights.keys():  # noqa: SIM118
            if name == "lm_head.weight" and config.get("tie_word_embeddings"):
                continue
            weight = weights.get_tensor(name)
            if adjacent and name.endswith(("q_proj.weight", "k_proj.weight")):
                weight = interleaved(weight, heads if "q_proj" in name else config["num_key_value_heads"])
            target = names.get_name(name, try_suffixes=(".weight", ".bias"))
            writer.add_tensor(target, weight.astype(np.float16 if weight.ndim > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, path: Path, kind: str) -> None:
    """Quantize with llama.cpp's quantizer."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(settings)):
        raise SystemExit(f"llama.cpp cannot quantize {source} to {kind}")


def main(directory: Path, prefix: str, *kinds: str) -> None:
    """Write one GGUF file per type."""
    source = Path(f"{prefix}-f16.gguf")
    if not source.exists():
        part = Path(f"{prefix}-f16.part")
        write_float(directory, part)
        part.rename(source)
    for kind in kinds:
        part = Path(f"{prefix}-{kind}.part")
        quantize(source, part, kind)
        part.rename(f"{prefix}-{kind}.gguf")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
