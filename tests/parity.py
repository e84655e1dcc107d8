"""A model's logits three ways: transformers, the canonical graph in numpy, and an engine."""

from collections.abc import Collection
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
        rounded: the same, with what quantized layers read rounded as kernels do that multiply codes.
        canonical: of the graph that the weights were attached to.
        engine: scored at once, and the last token by itself.
    """

    transformers: np.ndarray
    rounded: np.ndarray
    canonical: np.ndarray
    engine: tuple[np.ndarray, np.ndarray]
    graph: Canonical
    directory: Path


def all_logits(source: ModelSource, directory: Path, recipe: Recipe, native: bool) -> Logits:
    """Build `source` at `directory`/engine, uncalibrated, and run it."""
    ids = np.random.default_rng(0).integers(0, source.config.vocab_size, TOKENS)
    options = BuildOptions(recipe=recipe)
    graph = canonical_graph(source, options)
    model = load_model(source)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(ids)[None]).logits[0, -1].numpy()
        round_inputs(model, [name for layer in graph.plan.layers for name in layer.names])
        rounded = model(input_ids=torch.tensor(ids)[None]).logits[0, -1].numpy()
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
    return Logits(expected, rounded, canonical, (runtime.score(ids)[-1], runtime.step(cache, ids[-1:])[0]), graph, engine)


def round_inputs(model: torch.nn.Module, layers: Collection[str]) -> None:
    """Have `layers` read int8 codes in blocks of 32 with a scale each."""

    def rounded(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> torch.Tensor:
        blocks = given[0].unflatten(-1, (-1, 32))
        step = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
        return ((blocks / step).round() * step).flatten(-2)

    for name, module in model.named_modules():
        if name in layers or f"{name}.weight" in layers:
            module.register_forward_pre_hook(rounded)


def check(logits: Logits, native: bool = False, weights_only: bool = True) -> None:
    """All agree: numpy with transformers to rounding, the engine but for rounding activations to int8.

    Args:
        logits: what `all_logits` gave.
        native: the kernels for weights in groups are edgekiln's own. They take activations as they are or rounded in
            blocks of 32, and nothing else is between them and transformers.
        weights_only: the graph does not say that activations are rounded.
    """
    size = np.linalg.norm(logits.transformers)
    assert np.linalg.norm(logits.canonical - logits.transformers) < (1e-4 if weights_only else 0.06) * size
    for result in logits.engine:
        error, error_of_rounded = (
            np.linalg.norm(result - truth) / size for truth in (logits.transformers, logits.rounded)
        )
        assert error < 0.06
        if native and weights_only:
            assert min(error, error_of_rounded) < 1e-3, (error, error_of_rounded)
