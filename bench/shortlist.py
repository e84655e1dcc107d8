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
from edgekiln.bundle import read_manifest
from edgekiln.export.passes.shortlist import inline_shortlist
from edgekiln.runtimes.tokenizer import Tokenizer


def without_shortlist(engine: Path, to: Path) -> Path:
    """The engine with links to its files, but a graph whose logits all have 8 bits."""
    manifest = read_manifest(engine, verify=False)
    graph = manifest.graphs["generate"]
    for file in engine.iterdir():
        if file.name != graph:
            (to / file.name).hardlink_to(file)
    model = ir.load(engine / graph)
    inline_shortlist(model)
    ir.save(model, to / graph)
    return to


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of float32[V] logits."""
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@click.command()
@click.argument("engine", type=click.Path(exists=True, path_type=Path))
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="File to read.")
@click.option("--tokens", default=1000, show_default=True, help="Of it that are read, in windows of 500.")
def main(engine: Path, text: Path, tokens: int) -> None:
    """Print what ENGINE loses."""
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
    ids = np.array(tokenizer.encode(text.read_text(encoding="utf-8")), np.int64)[:tokens]
    found: list[tuple[float, float, float, bool]] = []
    with tempfile.TemporaryDirectory(dir=engine.parent) as folder:
        both = [runtimes.open(path, verify=False) for path in (without_shortlist(engine, Path(folder)), engine)]
        for window in np.split(ids, range(500, ids.size, 500)):
            caches = [runtime.new_cache() for runtime in both]
            for token, following in zip(window[:-1, None], window[1:], strict=True):
                whole, parted = (
                    log_probabilities(runtime.step(cache, token)[0])
                    for runtime, cache in zip(both, caches, strict=True)
                )
                divergence = float((np.exp(whole) * (whole - parted)).sum())
                alike = bool(whole.argmax() == parted.argmax())
                found.append((whole[following], parted[following], divergence, alike))
    whole, parted, divergence, alike = np.array(found).T
    print(f"tokens {len(found)}, perplexity {np.exp(-whole.mean()):.3f} with all logits of 8 bits")
    print(f"in two steps {np.exp(-parted.mean()):.3f}, KL {divergence.mean():.5f}, alike {alike.mean():.4f}")


if __name__ == "__main__":
    main()
