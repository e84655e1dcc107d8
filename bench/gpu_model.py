"""A random llama of a given shape as a Hugging Face checkpoint: what speed is measured on, without a download."""

from pathlib import Path

import click
import torch
from checkpoints import SHAPES
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SHAPE = SHAPES["random-llama-1b"]


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path, exists=True), required=True, help="A tokenizer.json.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(output: Path, tokenizer: Path, seed: int) -> None:
    """Write the checkpoint to OUTPUT."""
    torch.manual_seed(seed)
    words = Tokenizer.from_file(str(tokenizer))
    config = AutoConfig.for_model(**SHAPE, vocab_size=words.get_vocab_size(), bos_token_id=0, eos_token_id=0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    model.save_pretrained(output)
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(output)
    click.echo(f"{output}: {sum(p.numel() for p in model.parameters()) / 1e6:.0f} million parameters")


if __name__ == "__main__":
    main()
