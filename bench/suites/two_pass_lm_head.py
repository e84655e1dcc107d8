"""Quality cost of the two-pass LM head: decode steps of an engine against the same engine with 8-bit logits.

Both decode the same text token by token. KL divergence is from the 8-bit logits to the two-pass ones; `same top` is the
share of positions where both have the same largest logit.
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
from edgekiln.export.passes.ort.two_pass_lm_head import InlineTwoPassLMHead
from edgekiln.export.weights_file import save_graph
from edgekiln.runtimes.text.tokenizer import Tokenizer

WINDOW = 500  # tokens


def without_two_pass(engine: Path, to: Path) -> Path:
    """Hard-link the engine into `to`, with the TwoPassMatMulNBits function of its graph inlined."""
    manifest = read_manifest(engine, verify=False)
    graph = manifest.graphs["generate"]
    for file in engine.iterdir():
        if file.name != graph:
            (to / file.name).hardlink_to(file)
    model = ir.load(engine / graph)
    InlineTwoPassLMHead()(model)
    save_graph(model, to / graph)
    return to


def stepping(runtime: runtimes.Runtime) -> Scorer:
    """Score with decode steps, one a token."""

    def score(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        cache = runtime.new_cache()
        return np.array([runtime.step(cache, token)[0].copy() for token in ids[:, None]])

    return score


@click.command()
@click.argument("engine", type=click.Path(exists=True, path_type=Path))
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="Text file to decode.")
@click.option(
    "--tokens", default=1000, show_default=True, help=f"Tokens of the text to decode, in windows of {WINDOW}."
)
def main(engine: Path, text: Path, tokens: int) -> None:
    """Print perplexity and KL divergence of ENGINE."""
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
    ids = np.array(tokenizer.encode(text.read_text(encoding="utf-8")), np.int64)
    with tempfile.TemporaryDirectory(dir=engine.parent) as folder:
        two_pass, full = (
            stepping(runtimes.open(path, verify=False)) for path in (engine, without_two_pass(engine, Path(folder)))
        )
        found = perplexity(two_pass, ids, WINDOW, tokens, reference=full)
    print(f"tokens {found.tokens}, perplexity {found.reference_perplexity:.3f} with 8-bit logits")
    print(f"two-pass: perplexity {found.perplexity:.3f}, KL {found.kl_divergence:.5f}, same top {found.same_top:.4f}")


if __name__ == "__main__":
    main()
