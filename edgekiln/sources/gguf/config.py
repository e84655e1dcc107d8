"""The model configuration of a GGUF file.

Every key "<architecture>.*" is read into the configuration, known to have no effect, or refused: see `metadata` and
`architectures`. Values that a file leaves out are llama.cpp's defaults, never those of transformers' classes.
"""

import math
import re
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from edgekiln.errors import SourceError, UnsupportedModelError, one_line
from edgekiln.sources.gguf.architecture import LAYER_EPSILON, RMS_EPSILON, Architecture
from edgekiln.sources.gguf.architectures import ARCHITECTURES
from edgekiln.sources.gguf.metadata import Metadata
from edgekiln.sources.gguf.reader import GgufFile
from edgekiln.sources.gguf.rope import DEFAULT_THETA, LONGROPE_FACTORS, rope_parameters
from edgekiln.sources.gguf.windows import layer_types

EMBEDDING = "token_embd.weight"
_OUTPUT = "output.weight"
_BLOCK = re.compile(r"blk\.(\d{1,9})\.")
_MAX_LAYERS = 512  # llama.cpp's LLAMA_MAX_LAYERS
_TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
# llama.cpp recognizes the Gemma models of 27 billion parameters by their number of layers: they alone divide attention
# by the square root of hidden size / heads instead of the head size.
_GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}
_GEMMA_PERIOD = {"gemma2": 2, "gemma3": 6}
_GEMMA2_WINDOW, _GEMMA2_ATTENTION_CAP, _GEMMA2_FINAL_CAP = 4096, 50.0, 30.0


def parse_config(file: GgufFile) -> dict[str, Any]:
    """Read the fields of the configuration, as `AutoConfig.for_model` takes them.

    Raises:
        SourceError: the file is not a whole language model, or a value is impossible.
        UnsupportedModelError: its architecture or a metadata key cannot be converted.
    """
    name = file.get("general.architecture")
    architecture = ARCHITECTURES.get(name)
    if architecture is None:
        raise UnsupportedModelError(
            f"{file.path} has the architecture {name:.60}, which cannot be read from GGUF yet (docs/gguf.md "
            f"lists the {len(ARCHITECTURES)} that can): give the model's Hugging Face directory"
        )
    if EMBEDDING not in file.tensors:
        raise SourceError(f"{file.path} has no {EMBEDDING}: it is not a whole language model")
    metadata = Metadata(file, name)
    _check_blocks(metadata)
    parsed: dict[str, Any] = {
        "model_type": architecture.model_type,
        # Some files pad the vocabulary beyond the tokenizer's. The embedding has the model's size.
        "vocab_size": file.tensors[EMBEDDING].shape[0],
        "tie_word_embeddings": _OUTPUT not in file.tensors,
        **architecture.fixed,
        **_token_ids(file),
    }
    _read_sizes(metadata, architecture, parsed)
    if architecture.predictors:
        _drop_predictors(metadata, parsed)
    _read_positions(metadata, architecture, parsed)
    _read_family(metadata, architecture, parsed)
    metadata.check_all_read(architecture.neutral)
    return parsed


def build_config(file: GgufFile, parsed: dict[str, Any]) -> PretrainedConfig:
    """Build the configuration from the fields of `parse_config`.

    Raises:
        SourceError: the model type refuses the value of a field.
    """
    try:
        return AutoConfig.for_model(**parsed)
    except Exception as error:
        # Configuration classes validate with exceptions of many types.
        raise SourceError(f"{file.path} has metadata that makes no model: {one_line(error)}") from error


def _check_blocks(metadata: Metadata) -> None:
    """Compare block_count with the tensors, before anything is built for that many layers."""
    layers = metadata.count("block_count")
    numbers = [int(match[1]) for name in metadata.file.tensors if (match := _BLOCK.match(name))]
    found = max(numbers) + 1 if numbers else layers
    if layers != found:
        raise metadata.damaged("block_count", layers, f"{found}, the blocks that the file holds")
    if layers > _MAX_LAYERS:
        raise metadata.damaged("block_count", layers, f"at most {_MAX_LAYERS}")


def _token_ids(file: GgufFile) -> dict[str, int | None]:
    """Special token ids of the configuration; None without the key, instead of the class's default."""
    size = file.tensors[EMBEDDING].shape[0]
    ids: dict[str, int | None] = {}
    for field, key in _TOKENS.items():
        token = ids[field] = file.get(f"tokenizer.ggml.{key}")
        if token is not None and (isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < size):
            raise SourceError(
                f"{file.path} is damaged: {key} is {token!r:.60}, the model has {size} tokens; download it again"
            )
    return ids


def _read_sizes(metadata: Metadata, architecture: Architecture, parsed: dict[str, Any]) -> None:
    heads = metadata.count("attention.head_count") if architecture.attention else None
    for key, field in architecture.counts.items():
        parsed[field] = metadata.count(key, heads if key == "attention.head_count_kv" else None)
    for key, (field, default) in architecture.numbers.items():
        # 0 stands for a number that is not set, as in llama.cpp.
        if number := metadata.number(key, default or 0.0, zero=True):
            parsed[field] = number
    _read_epsilon(metadata, architecture, parsed)
    if heads is not None:
        _read_heads(metadata, architecture, parsed, heads)


def _drop_predictors(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Leave out the last blocks, where they predict further tokens: llama.cpp uses them for speculation only."""
    blocks, predictors = metadata.count("block_count"), int(metadata.number("nextn_predict_layers", 0, zero=True))
    if predictors >= blocks:
        raise metadata.damaged("nextn_predict_layers", predictors, f"less than the {blocks} blocks")
    if predictors:
        parsed["num_hidden_layers"] = blocks - predictors


def _read_epsilon(metadata: Metadata, architecture: Architecture, parsed: dict[str, Any]) -> None:
    key, field = architecture.epsilon
    # transformers' converter once wrote the name of the other kind of norm.
    other = RMS_EPSILON if key == LAYER_EPSILON else LAYER_EPSILON
    epsilon = metadata.value(other)
    parsed[field] = metadata.number(other) if metadata.value(key) is None and epsilon else metadata.number(key)


def _read_heads(metadata: Metadata, architecture: Architecture, parsed: dict[str, Any], heads: int) -> None:
    kv_heads = heads
    if "attention.head_count_kv" in architecture.counts:
        kv_heads = metadata.count("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise metadata.damaged("attention.head_count_kv", kv_heads, f"a divisor of the {heads} heads")
    hidden = metadata.count("embedding_length")
    head_dim = metadata.count("attention.key_length", hidden // heads or None)
    if metadata.count("attention.value_length", head_dim) != head_dim:
        raise metadata.unsupported("attention.value_length", f"keys have {head_dim}")
    if architecture.head_dim:
        parsed["head_dim"] = head_dim
    elif head_dim * heads != hidden:
        raise metadata.unsupported("attention.key_length", f"{hidden} / {heads} heads is another head size")
    if "attention.scale" in architecture.numbers:
        field, _ = architecture.numbers["attention.scale"]
        parsed.setdefault(field, head_dim**-0.5)
        return
    scale = metadata.number("attention.scale", 0, zero=True)
    if scale and not math.isclose(scale, head_dim**-0.5, rel_tol=1e-6):
        raise metadata.unsupported("attention.scale")


def _read_positions(metadata: Metadata, architecture: Architecture, parsed: dict[str, Any]) -> None:
    for name in LONGROPE_FACTORS:
        if name in metadata.file.tensors:
            raise UnsupportedModelError(
                f"{metadata.file.path} holds {name} (longrope), which cannot be read from GGUF yet: "
                "give the model's Hugging Face directory"
            )
    if not architecture.rope:
        return
    hidden, heads = metadata.count("embedding_length"), metadata.count("attention.head_count")
    head_dim = metadata.count("attention.key_length", hidden // heads)
    rotated = metadata.count("rope.dimension_count", head_dim)
    if rotated > head_dim or rotated % 2:
        raise metadata.damaged("rope.dimension_count", rotated, f"even and at most the head size, {head_dim}")
    if rotated != head_dim and not architecture.partial_rotary:
        raise metadata.unsupported("rope.dimension_count", f"heads have {head_dim}")
    rope = rope_parameters(metadata, rotated, metadata.count("context_length"), mscale=architecture.yarn_multiplier)
    if architecture.partial_rotary:
        parsed["partial_rotary_factor"] = rope["partial_rotary_factor"] = rotated / head_dim
    parsed["rope_parameters"] = rope


def _read_family(metadata: Metadata, architecture: Architecture, parsed: dict[str, Any]) -> None:
    """Read what only some architectures have."""
    if architecture.read is not None:
        architecture.read(metadata, parsed)
    tensors = metadata.file.tensors
    if architecture.model_type == "stablelm":
        parsed["use_qkv_bias"] = any(".attn_q.bias" in name for name in tensors)
        parsed["use_parallel_residual"] = not any(".ffn_norm." in name for name in tensors)
    elif architecture.model_type == "phi3":
        if parsed["rope_parameters"]["rope_type"] != "default":
            raise metadata.unsupported("rope.scaling.factor", "phi3 of transformers has longrope only")
        window = metadata.number("attention.sliding_window", 0, zero=True)
        parsed["sliding_window"] = int(window) or None
    elif architecture.model_type == "falcon" and parsed["num_kv_heads"] != 1:
        raise metadata.unsupported("attention.head_count_kv", "several key-value heads")
    elif metadata.architecture in _GEMMA_PERIOD:
        _read_gemma(metadata, parsed)


def _read_gemma(metadata: Metadata, parsed: dict[str, Any]) -> None:
    architecture, layers = metadata.architecture, parsed["num_hidden_layers"]
    wide = layers == _GEMMA_27B_LAYERS[architecture]
    parsed["query_pre_attn_scalar"] = (
        parsed["hidden_size"] // parsed["num_attention_heads"] if wide else parsed["head_dim"]
    )
    rope = parsed["rope_parameters"]
    if architecture == "gemma2":
        parsed["attn_logit_softcapping"] = metadata.number("attn_logit_softcapping", _GEMMA2_ATTENTION_CAP)
        parsed["final_logit_softcapping"] = metadata.number("final_logit_softcapping", _GEMMA2_FINAL_CAP)
        parsed["sliding_window"] = metadata.count("attention.sliding_window", _GEMMA2_WINDOW)
        if metadata.number("rope.freq_base_swa", rope["rope_theta"]) != rope["rope_theta"]:
            raise metadata.unsupported("rope.freq_base_swa")
    else:
        parsed["final_logit_softcapping"] = metadata.number("final_logit_softcapping", 0, zero=True) or None
        parsed["attn_logit_softcapping"] = None
        window = metadata.number("attention.sliding_window", 0, zero=True)
        theta = metadata.number("rope.freq_base_swa", DEFAULT_THETA)
        parsed["rope_parameters"] = {
            "full_attention": rope,
            "sliding_attention": {"rope_type": "default", "rope_theta": theta},
        }
        if not window:
            parsed["layer_types"] = ["full_attention"] * layers
            metadata.value("attention.sliding_window_pattern")
            return
        parsed["sliding_window"] = int(window)
    parsed["layer_types"] = layer_types(metadata, layers, _GEMMA_PERIOD[architecture])
