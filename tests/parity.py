"""A model's logits three ways: transformers, the canonical graph in numpy, and an engine."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgekiln import runtimes
from edgekiln.calib.recipe import Recipe
from edgekiln.calib.reference import load_model
from edgekiln.export.build import Canonical, Clock, canonical_graph, write_engine
from edgekiln.export.options import BuildOptions
from edgekiln.sources import ModelSource
from graphs import run_reference

TOKENS = 20


@dataclass
class Logits:
    """float32 [V] after the last of `TOKENS` random tokens.

    Attributes:
        transformers: with the weights that the source reads as float.
        canonical: of the graph that the weights were attached to.
        engine: scored at once, and the last token by itself.
    """

    transformers: np.ndarray
    canonical: np.ndarray
    engine: tuple[np.ndarray, np.ndarray]
    graph: Canonical
    directory: Path


def all_logits(source: ModelSource, directory: Path, recipe: Recipe, native: bool) -> Logits:
    """Build `source` at `directory`/engine, uncalibrated, and run it."""
    ids = np.random.default_rng(0).integers(0, source.config.vocab_size, TOKENS)
    with torch.no_grad():
        expected = load_model(source)(input_ids=torch.tensor(ids)[None]).logits[0, -1].numpy()
    options = BuildOptions(recipe=recipe)
    graph = canonical_graph(source, options)
    past = {
        value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)  # type: ignore[index, call-overload]
        for value in graph.graph.graph.inputs[2:]
    }
    feeds = {"input_ids": ids[None], "position_ids": np.arange(TOKENS)[None], **past}
    canonical = run_reference(graph.graph, feeds)[0][0, -1]  # type: ignore[arg-type]
    engine = directory / "engine"
    engine.mkdir(parents=True)
    write_engine(graph, source, engine, options, Clock())
    runtime = runtimes.open(engine, native=native)
    cache = runtime.new_cache(1)
    runtime.prefill(cache, 0, ids[:-1])
    return Logits(expected, canonical, (runtime.score(ids)[-1], runtime.step(cache, ids[-1:])[0]), graph, engine)


def check(logits: Logits, exact: bool = False, weights_only: bool = True) -> None:
    """All agree: numpy with transformers to rounding, the engine but for rounding activations to int8.

    Args:
        logits: what `all_logits` gave.
        exact: scoring rounds no activations, as with edgekiln's own kernels for weights in groups.
        weights_only: the graph does not say that activations are rounded.
    """
    size = np.linalg.norm(logits.transformers)
    assert np.linalg.norm(logits.canonical - logits.transformers) < (1e-4 if weights_only else 0.06) * size
    scored, stepped = (np.linalg.norm(result - logits.transformers) / size for result in logits.engine)
    assert scored < (1e-4 if exact else 0.06)
    assert stepped < 0.06
