"""Assemble an engine directory: trace, quantize, lower, write, compile.

config -> meta model (no weights) -> quantization plan -> canonical graph -> quantized weights
       -> the target's graph -> the engine's files -> TensorRT's plan, where the target compiles one
"""

import importlib.metadata
import itertools
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from transformers import PreTrainedModel

from edgekiln.calib.analysis.layer_report import layer_report
from edgekiln.calib.analysis.output_error import measured_error
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.quantization_plan import QuantizationPlan, plan_quantization, quantized_tensors
from edgekiln.calib.unquantized import check_unquantized
from edgekiln.engine.chat_templates import write_chat_templates
from edgekiln.engine.directory import (
    CHAT_SEGMENTS_FILE,
    QUANTIZATION_FILE,
    REPORT_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    write_json,
)
from edgekiln.engine.graph_io import GraphIO, of_state
from edgekiln.engine.manifest import Architecture, EngineManifest, QuantizationRecipe, StateSpec, write_manifest
from edgekiln.engine.reports import LayerReport, QuantizationReport
from edgekiln.errors import SourceError
from edgekiln.export.lower.base import PLAN_FILE
from edgekiln.export.passes.common.logits_to_keep import logits_to_keep_input
from edgekiln.export.passes.common.scoring import ScoreAllPositions
from edgekiln.export.passes.common.sequence_length import sequence_length_input
from edgekiln.export.passes.common.tensors import dtype_of, set_lazily, sizes_of
from edgekiln.export.step_weights import step_weight_bytes
from edgekiln.export.tracing import sparse_attention
from edgekiln.export.tracing.cache_trace import CacheShape, KeyValueShape
from edgekiln.export.tracing.meta_model import build_meta_model, called_modules, normalized
from edgekiln.export.tracing.quantized_modules import swap_quantized_modules
from edgekiln.export.tracing.trace import layer_caches, trace
from edgekiln.export.weights_file import WeightsFile, save_graph
from edgekiln.pipeline.build_report import build_report
from edgekiln.pipeline.chat_segments import chat_segments
from edgekiln.pipeline.lowering import context_length, lowering_of, prequantized_lookup
from edgekiln.pipeline.options import BuildOptions
from edgekiln.pipeline.scratch_file import ScratchFile
from edgekiln.progress import StepTimer
from edgekiln.sources.base import ModelSource, WeightReader

_GRAPHS = {"generate": "generate.onnx", "score": "score.onnx"}
_STATE_TYPES: dict[ir.DataType, Literal["float32", "float16", "bfloat16"]] = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
}
_PACKAGES = ("edgekiln", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


@dataclass
class CanonicalModel:
    """A traced model with quantized weights.

    Attributes:
        graph: canonical ONNX graph; its initializers are read and quantized when they are written.
        meta_model: the transformers model on the meta device, with quantized layers swapped in.
        quantization: scheme of each layer, and notes for the build report.
        caches: the caches of each decoder layer.
        layer_reports: module name -> quantization error and scale statistics, for quantization.json.
    """

    graph: ir.Model
    meta_model: PreTrainedModel
    quantization: QuantizationPlan
    caches: list[list[CacheShape]]
    layer_reports: dict[str, LayerReport] = field(default_factory=dict)


def assemble(source: ModelSource, directory: Path, options: BuildOptions, timer: StepTimer) -> EngineManifest:
    """Write an engine into an empty `directory`, with the weights as `source` has them.

    Raises:
        UnsupportedModelError: the canonical graph or the target does not support the model.
        SourceError: a weight is damaged.
    """
    with ScratchFile(directory) as scratch:
        return write_engine(canonical_graph(source, options, timer, scratch), source, directory, options, timer)


def canonical_graph(
    source: ModelSource, options: BuildOptions, timer: StepTimer | None = None, scratch: ScratchFile | None = None
) -> CanonicalModel:
    """Trace `source` and attach its weights, quantized by the recipe of `options`.

    Args:
        source: the model.
        options: its recipe counts.
        timer: gets the steps.
        scratch: keeps the quantized weights, and is open for as long as the graph is used; None keeps them in memory.

    Raises:
        UnsupportedModelError: the canonical graph does not support the model.
        RequestError: with `options.strict`, a model of which too much stays in floating point.
        SourceError: a weight is damaged.
    """
    timer = timer or StepTimer()
    timer.step("trace")
    meta_model = build_meta_model(source.config, source.model_class)
    with called_modules(meta_model) as called:
        caches = layer_caches(meta_model)
    quantization = plan_quantization(meta_model, options.chosen_recipe, prequantized_lookup(source, options), called)
    check_unquantized(meta_model, options.chosen_recipe, quantization, called, strict=options.strict)
    swap_quantized_modules(meta_model, quantization)
    graph = trace(meta_model, caches)
    model = CanonicalModel(graph, meta_model, quantization, caches)
    timer.step("quantize")
    _attach_weights(model, source, timer, scratch)
    return model


def check_strict(source: ModelSource, options: BuildOptions) -> None:
    """Check early what `canonical_graph` checks with `options.strict`, which calibration hardly changes.

    Raises:
        UnsupportedModelError: the canonical graph does not support the model.
        RequestError: too much of the model stays in floating point.
    """
    meta_model = build_meta_model(source.config, source.model_class)
    with called_modules(meta_model) as called:
        layer_caches(meta_model)
    recipe = options.chosen_recipe
    quantization = plan_quantization(meta_model, recipe, prequantized_lookup(source, options), called)
    check_unquantized(meta_model, recipe, quantization, called, strict=True)


def _attach_weights(model: CanonicalModel, source: ModelSource, timer: StepTimer, scratch: ScratchFile | None) -> None:
    """Give each initializer without values the checkpoint's tensor, which is read when it is written."""
    weights = source.weights
    initializers = model.graph.graph.initializers
    done, total = itertools.count(1), len(model.quantization.layers)
    for layer, quantized, tensors in quantized_tensors(model.quantization, weights):
        _check_finite(layer.names[0], quantized)
        experts = layer.experts.experts if layer.experts else None
        model.layer_reports[layer.module] = layer_report(quantized, measured_error(layer, quantized, source), experts)
        for kind, array in tensors.items():
            # Of a tied weight's names torch.export keeps one, and which one is not documented.
            value = next(initializers[f"{name}.{kind}"] for name in layer.names if f"{name}.{kind}" in initializers)
            read = scratch.keep(array) if scratch else partial(_itself, array)
            set_lazily(value, array.shape, ir.DataType.from_numpy(array.dtype), read)
        timer.progress("quantize", next(done) / total)
        # Freed before the next weight is made; `enumerate` would hold them as well.
        del quantized, tensors, array, read
    for value in initializers.values():
        if value.const_value is None:
            assert value.name is not None
            assert value.dtype is not None
            read = partial(_values, weights, value.name, value.dtype)
            set_lazily(value, weights.shape(value.name), value.dtype, read)


def _itself(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return array


def _check_finite(name: str, weight: QuantizedWeight) -> None:
    for values in (weight.scales, weight.group_bias):
        if values is not None and not np.isfinite(values).all():
            raise SourceError(f"{name} has scales that are NaN or infinite: download the checkpoint again")


def _values(weights: WeightReader, name: str, dtype: ir.DataType) -> npt.NDArray[np.generic]:
    """A weight as float32, or a table of integers."""
    tensor = weights.read(name).detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy().astype(dtype.numpy(), copy=False)


def write_engine(
    model: CanonicalModel, source: ModelSource, directory: Path, options: BuildOptions, timer: StepTimer
) -> EngineManifest:
    """Lower a canonical graph in place and write the engine's files into an empty `directory`."""
    lowering, lowering_options = lowering_of(source, options)
    timer.step("lower")
    kv_cache = lowering.kv_cache(model.graph, lowering_options)
    target_notes = lowering.notes(model.graph, lowering_options)
    lowering.lower(model.graph, lowering_options)
    kv_cache = kv_cache.model_copy(update={"states": _states(model.graph.graph, lowering.io)})
    timer.step("write")
    with WeightsFile(directory, WEIGHTS_FILE) as weights:
        weights.store(model.graph)
    save_graph(model.graph, directory / _GRAPHS["generate"])
    read = step_weight_bytes(model.graph, halves=options.target == "ort-cpu")
    io = lowering.io.model_copy(
        update={
            "logits_to_keep": logits_to_keep_input(model.graph),
            "sequence_length": sequence_length_input(model.graph),
            "window_start": lowering.io.window_start if kv_cache.windows else None,
        }
    )
    ScoreAllPositions()(model.graph)
    save_graph(model.graph, directory / _GRAPHS["score"])
    for extra in lowering.extra_graphs.values():
        save_graph(extra.make(), directory / extra.file)
    _write_text_files(source, directory)
    default = options.chosen_recipe.default
    recipe = QuantizationRecipe(scheme=options.quant, group_size=default.group_size if default else None)
    report = QuantizationReport(**recipe.model_dump(), layers=model.layer_reports)
    write_json(directory / QUANTIZATION_FILE, report.model_dump())
    manifest = EngineManifest(
        name=source.name,
        source=source.model_id,
        target=options.target,
        architecture=_architecture(model, source, lowering_options.max_length),
        graphs=_GRAPHS | {role: extra.file for role, extra in lowering.extra_graphs.items()},
        io=io,
        kv_cache=kv_cache,
        quantization=recipe,
        special_tokens=source.special_tokens.within(model.meta_model.config.vocab_size),
        sampling=source.sampling,
        versions=_versions(),
        files={},
    )
    if lowering.compile is not None:
        timer.step("compile")
        graph, plan_file = directory / _GRAPHS["generate"], directory / PLAN_FILE
        compiled = lowering.compile(graph, manifest, plan_file, lowering_options)
        graphs = manifest.graphs | {"plan": PLAN_FILE}
        manifest = manifest.model_copy(update={"graphs": graphs, "tensorrt": compiled})
    timer.step("finish")
    dense = sparse_attention.notes(model.meta_model, lowering_options.max_length)
    notes = [*source.notes, *dense, *target_notes, *model.quantization.notes]
    write_json(directory / REPORT_FILE, build_report(timer, notes, directory, read).model_dump())
    return write_manifest(directory, **manifest.model_dump(exclude={"files"}))


def _write_text_files(source: ModelSource, directory: Path) -> None:
    """Write tokenizer.json, the chat templates, and the default one as segments for C++ where possible."""
    (directory / TOKENIZER_FILE).write_text(source.tokenizer_json, encoding="utf-8")
    write_chat_templates(directory, source.chat_template)
    if segments := chat_segments(source):
        write_json(directory / CHAT_SEGMENTS_FILE, segments.model_dump())


def _states(graph: ir.Graph, io: GraphIO) -> list[StateSpec]:
    """The states of a lowered graph, in the order of their numbers."""
    inputs = {value.name: value for value in graph.inputs}
    states: list[StateSpec] = []
    while (value := inputs.get(of_state(io.past_state, len(states)))) is not None:
        sizes = [size for size in sizes_of(value)[1:] if isinstance(size, int)]
        states.append(StateSpec(shape=sizes, dtype=_STATE_TYPES[dtype_of(value)]))
    return states


def _architecture(model: CanonicalModel, source: ModelSource, max_length: int) -> Architecture:
    config = normalized(source.config)
    key_values = [cache for caches in model.caches for cache in caches if isinstance(cache, KeyValueShape)]
    return Architecture(
        model_type=source.config.model_type,
        vocab_size=model.meta_model.config.vocab_size,
        hidden_size=config.hidden_size,
        layers=len(model.caches),
        heads=config.num_attention_heads if key_values else 0,
        kv_heads=[cache.kv_heads for cache in key_values],
        head_dims=[cache.head_dim for cache in key_values],
        max_length=max_length,
        context_length=context_length(source),
        parameters=_parameters(source.weights),
    )


def _parameters(weights: WeightReader) -> int:
    return sum(int(np.prod(weights.shape(name))) for name in weights.keys())  # noqa: SIM118 - not a mapping


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
