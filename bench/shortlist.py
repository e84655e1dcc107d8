"""What logits in two steps cost in quality: an engine's decode steps beside those with every logit of 8 bits.

Both read the same text token by token. Perplexity is of the next token, KL from all logits of 8 bits to those in two
steps; alike is how often the largest logit is of the same token.
"""

import tempfile
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekiln import runtimes
from edgekiln.calib.evaluation.perplexity import Scorer, perplexity
from edgekiln.engine.manifest import read_manifest
from edgekiln.export.passes.ort.two_pass_lm_head import inline_shortlist
from edgekiln.export.weights_file import save_graph
from edgekiln.runtimes.text.tokenizer import Tokenizer

WINDOW = 500  # tokens


def without_shortlist(engine: Path, to: Path) -> Path:
    """The engine with links to its files, but a graph whose logits all have 8 bits."""
    manifest = read_manifest(engine, verify=False)
    graph = manifest.graphs["generate"]
    for file in engine.iterdir():
        if file.name != graph:
            (to / file.name).hardlink_to(file)
    model = ir.load(engine / graph)
    inline_shortlist(model)
    save_graph(model, to / graph)
    return to


def stepping(runtime: runtimes.Runtime) -> Scorer:
    """Logits of every position, as decode steps give them."""

    def score(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        cache = runtime.new_cache()
        return np.array([runtime.step(cache, token)[0].copy() for token in ids[:, None]])

    return score


@click.command()
@click.argument("engine", type=click.Path(exists=True, path_type=Path))
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="File to read.")
@click.option("--tokens", default=1000, show_default=True, help=f"Of it that are read, in windows of {WINDOW}.")
def main(engine: Path, text: Path, tokens: int) -> None:
    """Print what ENGINE loses."""
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
    ids = np.array(tokenizer.encode(text.read_text(encoding="utf-8")), np.int64)
    with tempfile.TemporaryDirectory(dir=engine.parent) as folder:
        parted, whole = (
            stepping(runtimes.open(path, verify=False)) for path in (engine, without_shortlist(engine, Path(folder)))
        )
        found = perplexity(parted, ids, WINDOW, tokens, reference=whole)
    print(f"tokens {found.tokens}, perplexity {found.reference_perplexity:.3f} with all logits of 8 bits")
    print(f"in two steps {found.perplexity:.3f}, KL {found.kl_divergence:.5f}, alike {found.same_top:.4f}")


if __name__ == "__main__":
    main()
