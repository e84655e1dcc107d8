"""Tiny random checkpoints of many model families."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from families.configs import VOCABULARY
from families.tiny import tiny_config, tiny_model

__all__ = [
    "CHAT_TEMPLATE",
    "FAMILIES",
    "FAMILY_NAMES",
    "VOCABULARY",
    "save_checkpoint",
    "save_model",
    "tiny_config",
    "tiny_model",
    "tiny_tokenizer",
]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Families that the tests of every target build. Their configurations, and those of all other types, are rows of
# families/configs.py.
_FAST = (
    "llama",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "stablelm",
    "gpt2",
    "gpt_neox",
    "mixtral",
    # Attention of its own, see edgekiln/export/tracing/adapters.py.
    "falcon",
    # A bias of keys, ALiBi, sinks, chunks, values narrower than keys, two attentions in a layer.
    "doge",
    "bloom",
    "gpt_oss",
    "llama4_text",
    "deepseek_v3",
    "diffllama",
)
_SLOW = (
    "qwen2",
    "mistral",
    "olmo2",
    "granite",
    "smollm3",
    "qwen3_moe",
    "gemma3n_text",
    "gemma4_text",
    "gptj",
    "gpt_neo",
    "jetmoe",
    # All keys in place of those that an indexer chooses, with sinks; experts without weights; sinusoidal positions.
    "hy_v4",
    "longcat_flash",
    "xglm",
)
FAMILY_NAMES = _FAST + _SLOW
# For `parametrize`.
FAMILIES = [*_FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in _SLOW)]


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
    save_model(directory, model)
    return model


def save_model(directory: Path, model: Any) -> None:
    """Save a model and a tiny tokenizer as a checkpoint."""
    model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
