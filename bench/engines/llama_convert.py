"""Write a Hugging Face checkpoint as GGUF files that llama.cpp runs on token ids; runs in llama.cpp's environment.

Usage: llama_convert.py HF_DIRECTORY OUTPUT_PREFIX TYPE...   writes OUTPUT_PREFIX-TYPE.gguf for types such as Q4_0,
from OUTPUT_PREFIX-f16.gguf, which is kept for the next one
"""

import ctypes
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from gguf import GGUFWriter

# Architecture name in llama.cpp, and whether its RoPE pairs adjacent channels (as Meta's checkpoints) or halves.
ARCHITECTURES = {
    "llama": (gguf.MODEL_ARCH.LLAMA, True),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, False),
    "olmoe": (gguf.MODEL_ARCH.OLMOE, False),
    "qwen3_moe": (gguf.MODEL_ARCH.QWEN3MOE, False),
}
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_EXPERT = re.compile(r"(.*\.experts)\.\d+(\..*)")


@dataclass(frozen=True)
class Stored:
    """A tensor of safetensors, of a type in `DTYPES`."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def bfloat16(self) -> bool:
        """Whether its values are bfloat16, which numpy has as uint16."""
        return self.dtype == "BF16"

    def _values(self) -> np.ndarray:
        return np.memmap(self.path, DTYPES[self.dtype], "r", self.offset, self.shape)

    def read(self) -> np.ndarray:
        """The values in 16 bits: float16, or bfloat16 as uint16."""
        values = self._values()
        return values.astype(np.float16) if self.dtype == "F32" else values

    def read_float(self) -> np.ndarray:
        """The values in float32."""
        values = self._values()
        return (values.astype(np.uint32) << 16).view(np.float32) if self.bfloat16 else values.astype(np.float32)


def stored_tensors(directory: Path) -> Iterator[tuple[str, Stored]]:
    """The tensors of all safetensors of a directory."""
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise SystemExit(f"{name} is {entry['dtype']}: a checkpoint in {', '.join(DTYPES)} is expected")
            start = 8 + size + entry["data_offsets"][0]
            yield name, Stored(path, start, tuple(entry["shape"]), entry["dtype"])


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the output channels of each head from rotate-half to interleaved RoPE pairs."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def add_config(writer: GGUFWriter, config: dict[str, Any]) -> None:
    """Write the sizes of the model, with no vocabulary."""
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    writer.add_block_count(config["num_hidden_layers"])
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
    if experts := config.get("num_experts") or config.get("num_local_experts"):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config.get("moe_intermediate_size") or config["intermediate_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")


@dataclass(frozen=True)
class Converted:
    """A tensor of the GGUF file: one of the checkpoint, or those of all experts of a layer.

    Attributes:
        parts: the tensors of the checkpoint.
        single: it is written in float32, as llama.cpp expects of vectors and routers.
        heads: whose output channels are reordered, see `interleaved`; 0 for none.
    """

    parts: list[Stored]
    single: bool
    heads: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, experts first."""
        return (len(self.parts), *self.parts[0].shape) if len(self.parts) > 1 else self.parts[0].shape

    @property
    def kind(self) -> gguf.GGMLQuantizationType:
        """The type of its values."""
        if self.single:
            return gguf.GGMLQuantizationType.F32
        return gguf.GGMLQuantizationType.BF16 if self.parts[0].bfloat16 else gguf.GGMLQuantizationType.F16

    def read(self) -> np.ndarray:
        """The values; bfloat16 as uint16."""
        if len(self.parts) > 1:
            return np.stack([part.read() for part in self.parts])
        weight = self.parts[0].read_float() if self.single else self.parts[0].read()
        return interleaved(weight, self.heads) if self.heads else weight


def converted(directory: Path, config: dict[str, Any]) -> dict[str, Converted]:
    """The tensors of the GGUF file by name; none is read."""
    architecture, adjacent = ARCHITECTURES[config["model_type"]]
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]} if adjacent else {}
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    tensors: dict[str, list[Stored]] = {}
    for name, stored in sorted(stored_tensors(directory), key=lambda item: natural(item[0])):
        if name != "lm_head.weight" or not config.get("tie_word_embeddings"):
            tensors.setdefault(_EXPERT.sub(r"\1\2", name), []).append(stored)
    result = {}
    for name, parts in tensors.items():
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        single = len(parts[0].shape) == 1 or ".ffn_gate_inp." in target
        result[target] = Converted(parts, single, heads.get(name.split(".")[-2], 0))
    return result


def write_float(directory: Path, path: Path) -> None:
    """Write matrices in float16, or bfloat16 as the checkpoint, other tensors in float32, one tensor at a time."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config["model_type"]][0]])
    add_config(writer, config)
    tensors = converted(directory, config)
    for name, tensor in tensors.items():
        size = math.prod(tensor.shape) * (4 if tensor.single else 2)
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float16), size, tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors.values():
        writer.write_tensor_data(tensor.read())
    writer.close()


def natural(name: str) -> list[int | str]:
    """Sort key by which expert 10 comes after expert 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


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
