"""Tiny random checkpoints of many model families."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 320
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": 32}

# Family -> config values beyond the common sizes. To test a new family, add a row.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "mistral": {"sliding_window": 8},
    "gemma2": {"head_dim": 16, "sliding_window": 8, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {"head_dim": 16, "sliding_window": 8, "sliding_window_pattern": 2},
    "phi3": {},
    "olmo2": {},
    "granite": {"attention_multiplier": 0.2, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    "smollm3": {"no_rope_layer_interval": 2, "tie_word_embeddings": True},
    "stablelm": {"partial_rotary_factor": 0.5, "use_qkv_bias": True},
    "gpt2": {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 256},
    "gpt_neox": {"partial_rotary_factor": 0.25},
    "mixtral": {**_EXPERTS, "sliding_window": None},
    "qwen3_moe": {**_EXPERTS, "head_dim": 16, "decoder_sparse_step": 1},
    # Each layer takes a part of a second embedding; later layers share the KV cache of earlier ones.
    "gemma3n_text": {
        "head_dim": 16,
        "sliding_window": 8,
        "intermediate_size": [128] * 4,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": VOCABULARY,
        "num_kv_shared_layers": 2,
    },
    "gemma4_text": {
        "head_dim": 16,
        "global_head_dim": 32,
        "sliding_window": 8,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": VOCABULARY,
    },
}
_WITHOUT_COMMON = {
    "gpt2": {
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    },
    "gpt_neox": {"num_key_value_heads"},
}


def tiny_config(family: str, **overrides: Any) -> Any:
    """A config of a few thousand parameters."""
    common = {key: value for key, value in _COMMON.items() if key not in _WITHOUT_COMMON.get(family, ())}
    return CONFIG_MAPPING[family](**{**common, **FAMILIES.get(family, {}), **overrides})


def tiny_model(family: str, **overrides: Any) -> Any:
    """A random model with large weights: attention is far from uniform, so that wrong masks or angles show."""
    torch.manual_seed(0)
    model = (
        AutoModelForCausalLM.from_config(tiny_config(family, **overrides), attn_implementation="eager").float().eval()
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = torch.randn_like(parameter)
            if parameter.dim() == 1:
                parameter.add_(0.1 * spread)
            else:
                parameter.copy_(spread * (0.5 if "embed" in name or "wte" in name else 0.2))
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with one token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
    )


def save_checkpoint(directory: Path, family: str, **overrides: Any) -> Any:
    """Save a tiny model and its tokenizer as a checkpoint, and return the model."""
    model = tiny_model(family, **overrides)
    model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return model
