"""Logits of a model in transformers, of its canonical graph in numpy, and of its engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgekiln import runtimes
from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.recipe import Recipe
from edgekiln.pipeline.assemble import CanonicalModel, canonical_graph, write_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.progress import StepTimer
from edgekiln.runtimes.base import Ids, KernelsChoice
from edgekiln.sources.base import ModelSource
from edgekiln.targets import DEFAULT_TARGET
from support.graphs import run_reference

TOKENS = 20


@dataclass
class Logits:
    """float32 [V] after the last of `TOKENS` random tokens.

    Attributes:
        transformers: with the source's float weights.
        fake_quantized: the same, with quantized activations of 4-bit layers, and of all quantized layers.
        canonical: of the canonical graph, in numpy.
        graph: the canonical graph, lowered.
        directory: the engine.
        ids: the tokens.
    """

    transformers: np.ndarray
    fake_quantized: tuple[np.ndarray, np.ndarray]
    canonical: np.ndarray
    graph: CanonicalModel
    directory: Path
    ids: Ids


def all_logits(source: ModelSource, directory: Path, recipe: Recipe, target: str = DEFAULT_TARGET) -> Logits:
    """Build `source` for `target` at `directory`/engine, uncalibrated, and run it in transformers and in numpy."""
    ids = np.random.default_rng(0).integers(0, source.config.vocab_size, TOKENS)
    options = BuildOptions(target=target, recipe=recipe)
    graph = canonical_graph(source, options)
    model = load_model(source)
    four: dict[str, QuantizedWeight | None] = {}
    eight: dict[str, QuantizedWeight | None] = {}
    for layer in graph.quantization.layers:
        names = four if layer.scheme.bits == 4 else eight
        names |= dict.fromkeys(layer.names, layer.prequantized and layer.prequantized.read())
    with torch.no_grad():
        results = [model(input_ids=torch.tensor(ids)[None]).logits[0, -1].numpy()]
        for names in (four, eight):
            quantize_activations(model, names)
            results.append(model(input_ids=torch.tensor(ids)[None]).logits[0, -1].numpy())
    expected, *fake_quantized = results
    past = {
        value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)  # type: ignore[index, call-overload]
        for value in graph.graph.graph.inputs[2:]
    }
    feeds = {"input_ids": ids[None], "position_ids": np.arange(TOKENS)[None], **past}
    canonical = run_reference(graph.graph, feeds)[0][0, -1]  # type: ignore[arg-type]
    engine = directory / "engine"
    engine.mkdir(parents=True)
    write_engine(graph, source, engine, options, StepTimer())
    return Logits(expected, fake_quantized, canonical, graph, engine, ids)


def engine_logits(engine: Path, ids: Ids, kernels: KernelsChoice) -> tuple[np.ndarray, np.ndarray]:
    """float32[V] after the last of int64[S] `ids`: scored all at once, and as the decode step after a prefill."""
    runtime = runtimes.open(engine, kernels=kernels)
    cache = runtime.new_cache(1)
    runtime.prefill(cache, 0, ids[:-1])
    return runtime.score(ids)[-1], runtime.step(cache, ids[-1:])[0]


def quantize_activations(model: torch.nn.Module, layers: Mapping[str, QuantizedWeight | None]) -> None:
    """Fake-quantize the activations of linear layers to int8 in blocks of 32, as kernels of 4-bit weights do.

    Args:
        model: the model of transformers.
        layers: weight name -> the checkpoint's quantized weight, for its act-order and its group bias, which multiplies
            the activations before they are quantized; None for a float weight.
    """

    def forward(weight: torch.Tensor, order: torch.Tensor, group_bias: torch.Tensor) -> Callable[..., torch.Tensor]:
        def multiply(x: torch.Tensor) -> torch.Tensor:
            x = x[..., order]
            blocks = x.unflatten(-1, (-1, 32))
            step = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
            quantized = ((blocks / step).round() * step).flatten(-2)
            return quantized @ (weight[:, order] - group_bias).T + x @ group_bias.T

        return multiply

    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or f"{name}.weight" not in layers:
            continue
        assert module.bias is None
        prequantized = layers[f"{name}.weight"]
        order, group_bias = torch.arange(module.in_features), torch.zeros_like(module.weight.data)
        if prequantized is not None and prequantized.order is not None:
            order = torch.from_numpy(prequantized.order)
        if prequantized is not None and prequantized.group_bias is not None:
            group_size = prequantized.scheme.group_size or 1
            group_bias = torch.from_numpy(np.repeat(prequantized.group_bias, group_size, axis=1))
        module.forward = forward(module.weight.data, order, group_bias)  # type: ignore[method-assign]


def check(logits: Logits, kernels: KernelsChoice = "onnxruntime", weight_only: bool = True) -> None:
    """Compare numpy with transformers to float rounding, and the engine to the rounding of quantized activations.

    Args:
        logits: the result of `all_logits`.
        kernels: kernels of the engine. Those of edgekiln differ from transformers only by quantizing activations in
            blocks of 32, or not at all.
        weight_only: the recipe does not quantize activations.
    """
    size = np.linalg.norm(logits.transformers)
    assert np.linalg.norm(logits.canonical - logits.transformers) < (1e-4 if weight_only else 0.06) * size
    results = engine_logits(logits.directory, logits.ids, kernels)
    for result in results:
        assert np.linalg.norm(result - logits.transformers) < 0.06 * size
    if kernels == "edgekiln" and weight_only:
        scored, _ = results
        error, *errors = (
            np.linalg.norm(scored - truth) / size for truth in (logits.transformers, *logits.fake_quantized)
        )
        # A value halfway between two codes may be rounded to either.
        assert error < 1e-4 or min(errors) < 1e-3, (error, errors)
