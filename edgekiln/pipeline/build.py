"""From a model source to an engine directory: skeleton, quantization plan, trace, weights, lowering, files."""

import dataclasses
import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from transformers import PreTrainedModel

from edgekiln.benchmark import peak_rss_mb
from edgekiln.calib.analysis.layer_report import layer_report
from edgekiln.calib.analysis.output_error import measured_error
from edgekiln.calib.data.options import FEW_WINDOWS
from edgekiln.calib.quantization_plan import QuantizationPlan, plan, quantized_tensors
from edgekiln.engine.directory import (
    CHAT_SEGMENTS_FILE,
    CHAT_TEMPLATE_FILE,
    ENGINE_FILE,
    QUANTIZATION_FILE,
    REPORT_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    atomic_directory,
    write_json,
)
from edgekiln.engine.manifest import Architecture, EngineManifest, QuantizationRecipe, write_manifest
from edgekiln.engine.reports import BuildReport, LayerRecord, QuantizationRecord, read_report
from edgekiln.errors import RequestError
from edgekiln.export.lower.targets import PLAN, TARGETS
from edgekiln.export.passes.common.logits_to_keep import logits_start_of
from edgekiln.export.passes.common.scoring import all_positions
from edgekiln.export.passes.common.tensors import set_lazily
from edgekiln.export.tracing.attention import LayerShape
from edgekiln.export.tracing.meta_model import build_meta_model, normalized
from edgekiln.export.tracing.trace import layer_shapes, trace
from edgekiln.export.weights_file import WeightsFile, save_graph
from edgekiln.pipeline.calibration import calibrated, calibration_windows
from edgekiln.pipeline.chat_segments import chat_segments
from edgekiln.pipeline.int8_kv_cache import with_int8_cache
from edgekiln.pipeline.options import BuildOptions
from edgekiln.pipeline.quality import add_quality, quality_tokens
from edgekiln.sources.base import ModelSource, WeightReader

Progress = Callable[[str, float], None]
_GRAPHS = {"generate": "generate.onnx", "score": "score.onnx"}
_PACKAGES = ("edgekiln", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


@dataclass
class Canonical:
    """A traced model with its weights attached, and what was recorded on the way."""

    graph: ir.Model
    skeleton: PreTrainedModel
    plan: QuantizationPlan
    shapes: list[LayerShape]
    records: dict[str, LayerRecord] = field(default_factory=dict)


@dataclass
class StepTimer:
    """Seconds by step, and the caller's progress."""

    progress: Progress = lambda step, done: None
    seconds: dict[str, float] = field(default_factory=dict)
    _last: tuple[str, float] | None = None

    def step(self, name: str) -> None:
        """Begin the step `name` and end the one before."""
        now = time.perf_counter()
        if self._last is not None:
            self.seconds[self._last[0]] = round(now - self._last[1], 2)
        self._last = (name, now)
        self.progress(name, 0.0)


def build_engine(
    source: ModelSource, output: Path, options: BuildOptions, progress: Progress | None = None
) -> EngineManifest:
    """Build an engine directory at `output`, whole or not at all.

    Args:
        source: the model.
        output: directory to make; an engine there is replaced.
        options: target, quantization and length.
        progress: called with the name of the step and how much of it is done, 0 to 1.

    Raises:
        UnsupportedModelError: the graph or the target cannot carry the model.
        EdgekilnError: what the target is compiled with is missing.
        RequestError: a length beyond the model's context, a text to measure on that has no tokens.
        EngineError: `output` cannot be written.
    """
    clock = StepTimer(progress) if progress else StepTimer()
    _max_length(source, options.max_length)
    TARGETS[options.target](options).check()
    if options.quality_text is not None:
        quality_tokens(source, options.quality_text)
    original = source
    with atomic_directory(output) as directory:
        if options.chosen_recipe.calibrates or options.chosen_limits:
            clock.step("calibrate")
            source, recipe = calibrated(
                source, options.chosen_recipe, options.data, options.chosen_limits, clock.progress
            )
            options = dataclasses.replace(options, recipe=recipe)
        canonical = canonical_graph(source, options, clock)
        manifest = write_engine(canonical, source, directory, options, clock)
        if options.kv == "int8":
            manifest = _with_int8_cache(original, directory, manifest, options, clock)
        if options.quality_text is not None:
            del canonical
            clock.step("evaluate")
            text, report = options.quality_text, partial(clock.progress, "evaluate")
            manifest = add_quality(directory, manifest, original, text, report)
    clock.progress("done", 1.0)
    return manifest


def _with_int8_cache(
    source: ModelSource, directory: Path, manifest: EngineManifest, options: BuildOptions, clock: StepTimer
) -> EngineManifest:
    clock.step("calibrate the cache")
    data = options.data if options.data.samples else dataclasses.replace(options.data, samples=FEW_WINDOWS)
    windows, notes = calibration_windows(source, data, clock.progress)
    manifest = with_int8_cache(directory, manifest, windows, partial(clock.progress, "calibrate the cache"))
    clock.step("finish")
    report = read_report(directory)
    update = {**_times(clock), "sizes": _sizes(directory), "notes": list(dict.fromkeys([*report.notes, *notes]))}
    write_json(directory / REPORT_FILE, report.model_copy(update=update).model_dump())
    return write_manifest(directory, **manifest.model_dump(exclude={"files"}))


def _times(clock: StepTimer) -> dict[str, Any]:
    return {
        "build_seconds": round(sum(clock.seconds.values()), 2),
        "steps": clock.seconds,
        "peak_rss_mb": round(peak_rss_mb(), 1),
    }


def write_engine(
    canonical: Canonical, source: ModelSource, directory: Path, options: BuildOptions, clock: StepTimer
) -> EngineManifest:
    """Lower a canonical graph, which is used up, and write the engine's files into an empty `directory`."""
    max_length = _max_length(source, options.max_length)
    clock.step("lower")
    target = TARGETS[options.target](options)
    target.lower(canonical.graph, max_length)
    clock.step("write")
    with WeightsFile(directory, WEIGHTS_FILE) as weights:
        weights.store(canonical.graph)
    save_graph(canonical.graph, directory / _GRAPHS["generate"])
    io = target.io.model_copy(update={"logits_to_keep": logits_start_of(canonical.graph)})
    all_positions(canonical.graph)
    save_graph(canonical.graph, directory / _GRAPHS["score"])
    for file, make_graph in target.extra_graphs.values():
        save_graph(make_graph(), directory / file)
    (directory / TOKENIZER_FILE).write_text(source.tokenizer_json, encoding="utf-8")
    if source.chat_template:
        (directory / CHAT_TEMPLATE_FILE).write_text(source.chat_template, encoding="utf-8")
        if pieces := chat_segments(source):
            write_json(directory / CHAT_SEGMENTS_FILE, pieces.model_dump())
    default = options.chosen_recipe.default
    recipe = QuantizationRecipe(scheme=options.quant, group_size=default.group_size if default else None)
    record = QuantizationRecord(**recipe.model_dump(), layers=canonical.records)
    write_json(directory / QUANTIZATION_FILE, record.model_dump())
    config = normalized(source.config)
    manifest = EngineManifest(
        name=source.name,
        source=source.reference,
        target=options.target,
        architecture=Architecture(
            model_type=source.config.model_type,
            vocab_size=canonical.skeleton.config.vocab_size,
            hidden_size=config.hidden_size,
            layers=len(canonical.shapes),
            heads=config.num_attention_heads,
            kv_heads=[shape.kv_heads for shape in canonical.shapes],
            head_dims=[shape.head_dim for shape in canonical.shapes],
            max_length=max_length,
            parameters=_parameters(source.weights),
        ),
        graphs=_GRAPHS | {role: file for role, (file, _) in target.extra_graphs.items()},
        io=io,
        kv_cache=target.kv,
        quantization=recipe,
        special_tokens=source.special_tokens,
        sampling=source.sampling,
        versions=_versions(),
        files={},
    )
    if target.compile is not None:
        clock.step("compile")
        made = target.compile(directory / _GRAPHS["generate"], manifest, directory / PLAN)
        manifest = manifest.model_copy(update={"graphs": manifest.graphs | {"plan": PLAN}, "tensorrt": made})
    clock.step("finish")
    write_json(directory / REPORT_FILE, _report(clock, source, canonical, directory).model_dump())
    return write_manifest(directory, **manifest.model_dump(exclude={"files"}))


def canonical_graph(source: ModelSource, options: BuildOptions, clock: StepTimer | None = None) -> Canonical:
    """Trace `source` and attach its weights, quantized as `options` say.

    Raises:
        UnsupportedModelError: the graph cannot carry the model.
        SourceError: a weight is damaged.
    """
    clock = clock or StepTimer()
    clock.step("trace")
    skeleton = build_meta_model(source.config)
    shapes = layer_shapes(skeleton)
    quantization = plan(skeleton, options.chosen_recipe, source.weights.stored)
    graph = trace(skeleton, shapes)
    result = Canonical(graph, skeleton, quantization, shapes)
    clock.step("quantize")
    _attach(result, source, clock)
    return result


def _attach(result: Canonical, source: ModelSource, clock: StepTimer) -> None:
    """Give every initializer without values those of the checkpoint, read when they are written."""
    weights = source.weights
    initializers = result.graph.graph.initializers
    total = len(result.plan.layers)
    for done, (layer, quantized, tensors) in enumerate(quantized_tensors(result.plan, weights.read)):
        result.records[layer.module] = layer_report(quantized, measured_error(layer, quantized, source))
        for kind, array in tensors.items():
            # torch.export keeps one name of a tied weight, and does not say which.
            value = next(initializers[f"{name}.{kind}"] for name in layer.names if f"{name}.{kind}" in initializers)
            set_lazily(value, array.shape, ir.DataType.from_numpy(array.dtype), lambda array=array: array)  # type: ignore[misc]
        clock.progress("quantize", (done + 1) / total)
    for value in initializers.values():
        if value.const_value is None:
            assert value.name is not None
            assert value.dtype is not None
            name = value.name
            set_lazily(value, weights.shape(name), value.dtype, lambda name=name: _float32(weights.read(name)))  # type: ignore[misc]


def _float32(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    return tensor.detach().float().numpy()


def _max_length(source: ModelSource, wanted: int | None) -> int:
    context = getattr(source.config, "max_position_embeddings", None)
    if context is None:
        if wanted is None:
            raise RequestError(f"{source.name} does not say its context length: give --max-length")
        return wanted
    if wanted is not None and wanted > context:
        raise RequestError(f"max length {wanted} is over the model's context of {context}: lower --max-length")
    return int(wanted or context)


def _parameters(weights: WeightReader) -> int:
    return sum(int(np.prod(weights.shape(name))) for name in weights.keys())  # noqa: SIM118 - a WeightReader has no other iterator


def _report(clock: StepTimer, source: ModelSource, canonical: Canonical, directory: Path) -> BuildReport:
    return BuildReport(
        **_times(clock),
        sizes=_sizes(directory),
        notes=[*source.notes, *canonical.plan.notes],
    )


def _sizes(directory: Path) -> dict[str, int]:
    """Bytes of each file that the report is written beside."""
    written_later = (REPORT_FILE, ENGINE_FILE)
    return {path.name: path.stat().st_size for path in sorted(directory.iterdir()) if path.name not in written_later}


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
