"""A random llama of a given shape as a Hugging Face checkpoint: what speed is measured on, without a download."""

from pathlib import Path

import click
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

# About a billion parameters: the shape of Llama 3.2 1B with a smaller vocabulary.
SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path, exists=True), required=True, help="A tokenizer.json.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(output: Path, tokenizer: Path, seed: int) -> None:
    """Write the checkpoint to OUTPUT."""
    torch.manual_seed(seed)
    words = Tokenizer.from_file(str(tokenizer))
    config = LlamaConfig(**SHAPE, vocab_size=words.get_vocab_size(), bos_token_id=0, eos_token_id=0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    model.save_pretrained(output)
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(output)
    click.echo(f"{output}: {sum(p.numel() for p in model.parameters()) / 1e6:.0f} million parameters")


if __name__ == "__main__":
    main()
