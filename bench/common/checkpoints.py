"""The measured model as a Hugging Face checkpoint with plain weights, the input of every converter."""

import json
import shutil
from pathlib import Path

from bench.common.hybrid_shapes import HYBRID_SHAPES
from bench.common.mixture_shapes import MIXTURE_SHAPES

# Shapes of well-known models with random weights: speed does not depend on values, and nothing is downloaded.
SHAPES: dict[str, dict[str, object]] = {
    "random-llama-1b": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "random-qwen3-0.6b": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    **HYBRID_SHAPES,
    **MIXTURE_SHAPES,
}
TOKENIZER_OF = "smollm2-135m"  # random models take its tokenizer and, unless they state one, its vocabulary size


def write(model: str, directory: Path) -> None:
    """Write the checkpoint of a model argument of `edgekiln engine`, or of a shape above, unless it exists."""
    if (directory / "tokenizer_config.json").is_file():
        return
    shutil.rmtree(directory, ignore_errors=True)
    from tokenizers import Tokenizer

    from edgekiln.sources.resolve import resolve

    source = resolve(TOKENIZER_OF if model in SHAPES else model)
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    ids = {
        "bos_token": source.special_tokens.bos,
        "eos_token": source.special_tokens.eos[0] if source.special_tokens.eos else None,
    }
    directory.mkdir(parents=True)
    if model in MIXTURE_SHAPES:
        from bench.common import random_checkpoint

        random_checkpoint.write(MIXTURE_SHAPES[model], directory)
    elif model in SHAPES:
        write_random(SHAPES[model], tokenizer.get_vocab_size(), directory)
    else:
        from safetensors.torch import save_file
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        config = source.config
        config.architectures = config.architectures or [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]
        config.save_pretrained(directory)
        weights = {name: source.weights.read(name).contiguous() for name in source.weights.keys()}  # noqa: SIM118
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "tokenizer.json").write_text(source.tokenizer_json, encoding="utf-8")
    settings = {name: tokenizer.id_to_token(token) for name, token in ids.items() if token is not None}
    if isinstance(source.chat_template, str):
        settings["chat_template"] = source.chat_template
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **settings}), encoding="utf-8"
    )


def write_random(shape: dict[str, object], vocab_size: int, directory: Path, seed: int = 0) -> int:
    """Write a random model of the given config in float16, without a tokenizer.

    Returns:
        Its parameter count.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(**shape, vocab_size=vocab_size, bos_token_id=0, eos_token_id=0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    model.save_pretrained(directory, max_shard_size="100GB")
    return int(model.num_parameters())
