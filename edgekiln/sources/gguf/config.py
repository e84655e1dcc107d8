"""The model configuration of a GGUF file: transformers' own mapping, plus metadata keys that it ignores.

A metadata key that changes the model's computation and that cannot be expressed in the configuration is refused.
llama.cpp would apply it, so that ignoring it would make the engine silently wrong.
"""

import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, PretrainedConfig
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES, load_gguf_checkpoint
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from edgekiln.errors import SourceError, UnsupportedModelError, one_line
from edgekiln.sources.gguf.reader import GgufFile

EMBEDDING = "token_embd.weight"
ROPE_FREQUENCIES = "rope_freqs.weight"
# Metadata keys, without the prefix "<architecture>.", that transformers' mapping lacks for some architectures, and the
# fields of the configuration that they set.
_SUPPLEMENTS = {
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "context_length": "max_position_embeddings",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "final_logit_softcapping": "final_logit_softcapping",
    "rope.freq_base": "rope_theta",
}
_REFUSED = ("attention.clamp_kqv", "attention.scale", "embedding_scale", "logit_scale", "residual_scale")
_TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
# RoPE scaling of all published Llama 3 models; only the factor differs (8 or 32).
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def parse_config(file: GgufFile) -> dict[str, Any]:
    """Read the fields of the configuration, as `AutoConfig.for_model` takes them.

    Raises:
        SourceError: the file is not a whole language model.
        UnsupportedModelError: its architecture or a metadata key cannot be converted.
    """
    architecture = file.get("general.architecture")
    if not isinstance(architecture, str):
        raise SourceError(f"{file.path} names no general.architecture: it is not a model")
    if EMBEDDING not in file.tensors:
        raise SourceError(f"{file.path} has no {EMBEDDING}: it is not a whole language model")
    parsed = _transformers_mapping(file, architecture)
    # Some files pad the vocabulary beyond the tokenizer's. The embedding has the model's size.
    parsed["vocab_size"] = file.tensors[EMBEDDING].shape[0]
    for field, key in _TOKENS.items():
        token = file.get(f"tokenizer.ggml.{key}")
        if token is not None and not 0 <= token < parsed["vocab_size"]:
            raise SourceError(
                f"{file.path} is damaged: {key} is {token}, the model has {parsed['vocab_size']} tokens; "
                "download it again"
            )
        if token is not None:
            parsed[field] = token
    _supplement(file, architecture, parsed)
    if ROPE_FREQUENCIES in file.tensors:
        scaling = _llama3_scaling(file, parsed)
        if scaling:
            parsed["rope_parameters"] = {"rope_theta": parsed["rope_theta"], **scaling}
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


def _transformers_mapping(file: GgufFile, architecture: str) -> dict[str, Any]:
    """The configuration fields that transformers reads from the metadata.

    transformers' parser reads every vocabulary entry through numpy, 6 s for 49,000 tokens. It gets a small GGUF file
    with the same metadata and tensor names, but without the vocabulary and the weights.
    """
    with tempfile.TemporaryDirectory(prefix="edgekiln-") as directory:
        small = Path(directory) / "header.gguf"
        writer = gguf.GGUFWriter(small, architecture)
        for key, field in file.metadata.items():
            if key == "general.architecture" or key.startswith("tokenizer."):
                continue
            # GGUFWriter takes the element type for arrays only, and cannot write an empty array.
            if field.element is None:
                writer.add_key_value(key, field.value, gguf.GGUFValueType(field.type))
            elif field.value:
                writer.add_key_value(
                    key, field.value, gguf.GGUFValueType(field.type), gguf.GGUFValueType(field.element)
                )
        # transformers counts tokens if the metadata gives no vocabulary size; parse_config sets the real size.
        writer.add_token_list(["-"])
        for name in file.tensors:
            writer.add_tensor(name, np.zeros(1, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        try:
            return load_gguf_checkpoint(str(small))["config"]
        except Exception as error:
            # transformers does not validate metadata: a wrong value fails somewhere, with any exception.
            if "is not supported yet" not in str(error):
                raise SourceError(f"{file.path} has metadata that makes no model: {one_line(error)}") from error
            supported = ", ".join(sorted(set(GGUF_SUPPORTED_ARCHITECTURES) - {"general", "tokenizer"}))
            raise UnsupportedModelError(
                f"{file.path} has the architecture {architecture}, which cannot be read from GGUF yet (can: "
                f"{supported}): give the model's Hugging Face directory"
            ) from error


def _supplement(file: GgufFile, architecture: str, parsed: dict[str, Any]) -> None:
    """Add the fields of `_SUPPLEMENTS` to `parsed`.

    Raises:
        UnsupportedModelError: a metadata key cannot be expressed in the configuration.
    """
    refused = [key for key in _REFUSED if file.get(f"{architecture}.{key}") is not None]
    if file.get(f"{architecture}.rope.scaling.type", "none") != "none":
        refused.append("rope.scaling.type")
    try:
        defaults = AutoConfig.for_model(parsed["model_type"])
    except (KeyError, ValueError) as error:
        raise UnsupportedModelError(f"{file.path}: transformers has no model type {parsed['model_type']!r}") from error
    for key, field in _SUPPLEMENTS.items():
        value = file.get(f"{architecture}.{key}")
        if value is None or defaults.attribute_map.get(field, field) in parsed:
            continue
        if hasattr(defaults, field) or (field == "rope_theta" and hasattr(defaults, "rope_parameters")):
            parsed[field] = value
        elif field == "head_dim" and value * _heads(parsed) == parsed.get("hidden_size"):
            pass
        elif field != "max_position_embeddings":
            refused.append(key)
    rotated, head_dim = file.get(f"{architecture}.rope.dimension_count"), _head_dim(parsed)
    if rotated is not None and head_dim and rotated != head_dim:
        parsed["partial_rotary_factor"] = rotated / head_dim
    if refused:
        raise UnsupportedModelError(
            f"{file.path} sets {architecture}.{refused[0]}, which cannot be read from GGUF yet: "
            "give the model's Hugging Face directory"
        )


def _heads(parsed: dict[str, Any]) -> int:
    return int(parsed.get("num_attention_heads") or parsed.get("n_head") or 0)


def _head_dim(parsed: dict[str, Any]) -> int:
    hidden = parsed.get("hidden_size") or parsed.get("n_embd") or 0
    return int(parsed.get("head_dim") or (hidden // _heads(parsed) if _heads(parsed) else 0))


def _llama3_scaling(file: GgufFile, parsed: dict[str, Any]) -> dict[str, Any] | None:
    """Llama 3's RoPE scaling, None without scaling. GGUF stores the divisors of the frequencies, not the parameters.

    Raises:
        UnsupportedModelError: the divisors are not those of Llama 3's formula.
    """
    divisors = torch.from_numpy(file.read(ROPE_FREQUENCIES))
    if torch.all(divisors == 1):
        return None
    scaling = {"rope_type": "llama3", "factor": float(divisors.max()), **_LLAMA3_ROPE}
    theta, dim = parsed["rope_theta"], _head_dim(parsed)
    config = AutoConfig.for_model(
        "llama",
        hidden_size=dim,
        num_attention_heads=1,
        head_dim=dim,
        max_position_embeddings=parsed["max_position_embeddings"],
        rope_parameters={"rope_theta": theta, **scaling},
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    if divisors.shape != plain.shape or not torch.allclose(plain / scaled, divisors, rtol=1e-3):
        raise UnsupportedModelError(
            f"{file.path} carries rotary divisors ({ROPE_FREQUENCIES}) that are not Llama 3's: "
            "give the model's Hugging Face directory"
        )
    return scaling
