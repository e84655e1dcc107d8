"""Every architecture that can be read from GGUF: the logits of a random model survive the way through a file.

The files have llama.cpp's tensor names and layouts, and the metadata that llama.cpp's converter writes for the model.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from edgekiln.sources.gguf.architectures import ARCHITECTURES
from edgekiln.sources.resolve import resolve
from support.gguf_files import TOKENS, interleave, write_tensors

VOCAB, HIDDEN, HEADS, KV_HEADS, INNER, LAYERS, POSITIONS = len(TOKENS), 64, 4, 2, 96, 3, 128
RMS, LAYER = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
ROPE = {"rope_type": "default", "rope_theta": 50000.0}
HALF = {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}, "partial_rotary_factor": 0.5}
WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
SWA = {"attention.sliding_window": 5, "attention.key_length": 32, "attention.value_length": 32}
# Architecture -> fields of the transformers configuration, and the metadata that says the same.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (
        {"rms_norm_eps": 0.03, "head_dim": 32},
        {RMS: 0.03, "attention.key_length": 32, "attention.value_length": 32},
    ),
    "qwen2": ({"rms_norm_eps": 0.03}, {RMS: 0.03}),
    "qwen2moe": (
        {
            "rms_norm_eps": 0.03,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 48,
        },
        {
            RMS: 0.03,
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_feed_forward_length": 32,
            "expert_shared_feed_forward_length": 48,
        },
    ),
    "qwen3": ({"rms_norm_eps": 0.03, "head_dim": 32}, {RMS: 0.03, "attention.key_length": 32}),
    "qwen3moe": (
        {
            "rms_norm_eps": 0.03,
            "head_dim": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
        },
        {RMS: 0.03, "expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32},
    ),
    "phi3": (
        {"rms_norm_eps": 0.03, "sliding_window": 5, "pad_token_id": None, **HALF},
        {RMS: 0.03, "attention.sliding_window": 5, "rope.dimension_count": 8},
    ),
    "gemma2": (
        {
            "rms_norm_eps": 0.03,
            "tie_word_embeddings": True,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 5,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 2.0,
        },
        {RMS: 0.03, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0, **SWA},
    ),
    "gemma3": (
        {
            "rms_norm_eps": 0.03,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 5,
            "layer_types": WINDOWS,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        {
            RMS: 0.03,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
            "attention.sliding_window_pattern": 2,
            **SWA,
        },
    ),
    "starcoder2": ({"norm_epsilon": 0.03, "sliding_window": None}, {LAYER: 0.03}),
    "stablelm": (
        {"layer_norm_eps": 0.03, "use_qkv_bias": True, **HALF},
        {LAYER: 0.03, "rope.dimension_count": 8, "use_parallel_residual": True},
    ),
    "nemotron": (
        {"norm_eps": 0.03, "head_dim": 16, **HALF},
        {LAYER: 0.03, "rope.dimension_count": 8, "rope.scaling.type": "none"},
    ),
    "falcon": (
        {"layer_norm_epsilon": 0.03, "num_kv_heads": 1, "ffn_hidden_size": INNER},
        {LAYER: 0.03, "attention.head_count_kv": 1, "tensor_data_layout": "jploski"},
    ),
    "gpt2": (
        {"layer_norm_epsilon": 0.03, "n_embd": HIDDEN, "n_inner": INNER, "n_head": HEADS, "n_layer": LAYERS},
        {LAYER: 0.03, "attention.head_count_kv": HEADS, "rope.freq_base": None},
    ),
}
METADATA = {
    "context_length": POSITIONS,
    "embedding_length": HIDDEN,
    "block_count": LAYERS,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "rope.freq_base": 50000.0,
    "vocab_size": VOCAB,
}


def random_model(architecture: str, fields: dict[str, Any]) -> PreTrainedModel:
    config = AutoConfig.for_model(
        ARCHITECTURES[architecture].model_type,
        **{
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "max_position_embeddings": POSITIONS,
            "tie_word_embeddings": False,
            "rope_parameters": ROPE,
            **dict.fromkeys(["bos_token_id", "eos_token_id", "pad_token_id"]),
            **fields,
        },
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    return model


def stored(architecture: str, model: PreTrainedModel) -> dict[str, np.ndarray]:
    """The tensors with llama.cpp's names and layouts."""
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors = {}
    for mapped, target in get_gguf_hf_weights_map(model, processor).items():
        name = f"{mapped}.weight" if mapped.endswith("_exps") else mapped
        weight = state.get(target)
        if weight is None:
            continue
        if "_exps" in name:
            half = weight.shape[1] // 2
            weight = {"gate": weight[:, :half], "up": weight[:, half:]}.get(name.split("ffn_")[1].split("_")[0], weight)
        elif architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
            weight = interleave(weight, HEADS if ".attn_q." in name else KV_HEADS)
        elif architecture in ("gemma2", "gemma3", "nemotron") and "norm.weight" in name:
            weight = weight + 1
        elif name.endswith("ffn_gate_inp_shexp.weight"):
            weight = weight[0]
        elif architecture == "gpt2" and weight.ndim == 2 and name.startswith("blk."):
            weight = weight.T
        tensors[name] = np.ascontiguousarray(weight)
    return tensors


def write_model(path: Path, architecture: str, model: PreTrainedModel, metadata: dict[str, Any]) -> None:
    tensors = ((name, tensor, None) for name, tensor in stored(architecture, model).items())
    write_tensors(path, architecture, {**METADATA, **metadata}, tensors)


@pytest.mark.parametrize("architecture", MODELS)
def test_logits_survive(tmp_path: Path, architecture: str) -> None:
    fields, metadata = MODELS[architecture]
    model = random_model(architecture, fields)
    write_model(tmp_path / "m.gguf", architecture, model, metadata)
    source = resolve(str(tmp_path / "m.gguf"))
    read = AutoModelForCausalLM.from_config(source.config, attn_implementation="eager").eval()
    names = set(source.weights.keys())
    read.load_state_dict({name: source.weights.read(name) for name in names}, strict=False)
    assert set(read.state_dict()) - names <= {"lm_head.weight"}
    tokens = torch.arange(1, 25)[None]
    with torch.no_grad():
        expected, found = model(tokens).logits, read(tokens).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
