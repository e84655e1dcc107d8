"""Write a random llama checkpoint to measure speed on, without a download."""

from pathlib import Path

import click
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from bench.common.checkpoints import SHAPES, write_random

SHAPE = SHAPES["random-llama-1b"]


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path, exists=True), required=True, help="A tokenizer.json.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(output: Path, tokenizer: Path, seed: int) -> None:
    """Write the checkpoint to OUTPUT."""
    words = Tokenizer.from_file(str(tokenizer))
    parameters = write_random(SHAPE, words.get_vocab_size(), output, seed)
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(output)
    click.echo(f"{output}: {parameters / 1e6:.0f} million parameters")


if __name__ == "__main__":
    main()
