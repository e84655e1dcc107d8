"""What a build would take and give: sizes, memory and time, from the shapes of a model, without its weights.

Sizes of weights follow from the shapes and the recipe. Graphs, memory and time are fitted to builds of models of 135M
to 600M parameters on two cores, and are estimates.
"""

import math
import os
from dataclasses import dataclass

from transformers import PreTrainedModel

from edgekiln.calib.limits import Limits
from edgekiln.calib.quantization_plan import LayerPlan, QuantizationPlan, plan_quantization
from edgekiln.calib.quantizers.base import active_quantizers, required_windows
from edgekiln.calib.unquantized import check_unquantized
from edgekiln.export.tracing.cache_trace import CacheShape, KeyValueShape
from edgekiln.export.tracing.meta_model import build_meta_model, called_modules
from edgekiln.export.tracing.trace import layer_caches
from edgekiln.pipeline.lowering import lowering_of, prequantized_lookup
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.base import ModelSource
from edgekiln.targets import DEFAULT_TARGET, find_target

_PAGE = 4096  # tensors of weights.bin start at multiples of it
_INLINE = 1024  # bytes of tensors that graphs hold themselves
_GRAPH_BYTES, _LAYER_BYTES, _REPORT_BYTES = 30_000, 6_500, 680  # of a graph, and for each layer or quantized weight
_PROGRAM = 720_000_000  # Python, torch, transformers and a trace
_CALIBRATED = 6.4  # bytes a parameter, of which 4 are the model in float32
_KINDS = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
# Of two cores: multiplications and additions of calibration, weights that are rounded, bytes written, a second.
_FLOPS, _ROUNDED, _WRITTEN = 1.2e11, 2e7, 2.5e8
_TRACE_S, _TRACE_LAYER_S = 3.0, 0.02
# Passes over the calibration data, as multiples of one forward.
_PASSES = {"smoothquant": 1.0, "gptq": 6.0, "awq": 6.0, "static_activations": 1.0, "mixed_precision": 8.0}
_MEASURED_CORES = 2


@dataclass(frozen=True)
class BuildEstimate:
    """What a build would take and give. All but `parameters` and the counts of layers are estimates.

    Attributes:
        parameters: of the model.
        layers: bits -> how many weights get so many.
        kept: how many weights keep the codes of the checkpoint.
        float_share: share of the parameters that stay in floating point.
        weights_bytes: of weights.bin.
        plan_bytes: of TensorRT's plan; 0 without one.
        other_bytes: of graphs, tokenizer and reports.
        max_length: tokens of a sequence, at most.
        cache_bytes_per_token: of keys and values of all layers; sliding windows hold fewer tokens.
        peak_bytes: memory of the build.
        seconds: of the build.
        notes: sentences for the user, as the build would make them.
    """

    parameters: int
    layers: dict[int, int]
    kept: int
    float_share: float
    weights_bytes: int
    plan_bytes: int
    other_bytes: int
    max_length: int
    cache_bytes_per_token: int
    peak_bytes: int
    seconds: float
    notes: list[str]

    @property
    def engine_bytes(self) -> int:
        """Size of the engine."""
        return self.weights_bytes + self.plan_bytes + self.other_bytes


def estimate(source: ModelSource, options: BuildOptions) -> BuildEstimate:
    """Estimate a build; nothing is traced, and no weight is read.

    Raises:
        UnsupportedModelError: the canonical graph does not support the model.
        RequestError: an option does not suit the model.
    """
    lowering, lowering_options = lowering_of(source, options)
    recipe = options.chosen_recipe
    model = build_meta_model(source.config, source.model_class)
    with called_modules(model) as called:
        caches = layer_caches(model)
    plan = plan_quantization(model, recipe, prequantized_lookup(source, options), called)
    check_unquantized(model, recipe, plan, called, strict=options.strict)
    shapes = {name: source.weights.shape(name) for name in source.weights.keys()}  # noqa: SIM118 - not a mapping
    on_cpu = options.target == DEFAULT_TARGET
    planned = {name for layer in plan.layers for name in layer.names}
    floats = {name: math.prod(shape) for name, shape in shapes.items() if name not in planned}
    # A graph in floating point holds a tied embedding twice: as rows, and transposed for the head.
    twice = [floats[name] for name in _tied_embedding(model) if name in floats]
    width = 4 if on_cpu else 2
    weights = sum(_in_file(size * width) for size in (*floats.values(), *twice))
    weights += sum(_quantized_bytes(layer, shapes, width) for layer in plan.layers)
    plan_bytes = weights if lowering.compile is not None and not options.tensorrt.strip_weights else 0
    largest = max((math.prod(_matrix(layer, shapes)) for layer in plan.layers if not layer.prequantized), default=0)
    parameters = sum(map(math.prod, shapes.values()))
    limits = options.chosen_limits
    windows = required_windows(recipe, limits)
    return BuildEstimate(
        parameters=parameters,
        layers=_bits(plan),
        kept=sum(layer.prequantized is not None for layer in plan.layers),
        float_share=sum(floats.values()) / max(1, parameters),
        weights_bytes=weights,
        plan_bytes=plan_bytes,
        other_bytes=len(source.tokenizer_json.encode()) + _other_bytes(len(caches), plan),
        max_length=lowering_options.max_length,
        cache_bytes_per_token=_cache_bytes(caches, options),
        peak_bytes=_peak(source.weights.nbytes, parameters, weights, largest, windows > 0),
        seconds=_seconds(source, options, parameters, weights, plan, shapes),
        notes=[*source.notes, *plan.notes, *_limit_notes(limits)],
    )


def _tied_embedding(model: PreTrainedModel) -> list[str]:
    """The names of the embedding's weight and the head's, if they are one; the checkpoint has it by one of them."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not embedding.weight:
        return []
    return [f"{name}.weight" for name, module in model.named_modules() if module in (embedding, head)]


def _bits(plan: QuantizationPlan) -> dict[int, int]:
    counts: dict[int, int] = {}
    for layer in plan.layers:
        counts[layer.scheme.bits] = counts.get(layer.scheme.bits, 0) + 1
    return dict(sorted(counts.items()))


def _matrix(layer: LayerPlan, shapes: dict[str, tuple[int, ...]]) -> tuple[int, int]:
    """N and K of a weight, or of one of its experts."""
    if layer.experts is not None:
        return layer.experts.n, layer.experts.k
    first, second = next(shapes[name] for name in layer.names if name in shapes)
    return (second, first) if layer.transposed else (first, second)


def _quantized_bytes(layer: LayerPlan, shapes: dict[str, tuple[int, ...]], width: int) -> int:
    """Bytes of codes, scales, zero points and group biases in weights.bin; `width` is that of floats."""
    n, k = _matrix(layer, shapes)
    n *= layer.experts.experts if layer.experts else 1
    scheme = layer.scheme
    groups = n * (k // scheme.group_size if scheme.group_size else 1)
    tensors = [n * k * scheme.bits // 8, groups * width]
    if not scheme.symmetric and not scheme.group_bias:
        tensors.append(groups * scheme.bits // 8)
    if scheme.group_bias:
        tensors.append(groups * width)
    if scheme.act_order:
        tensors.append(k * 8)
    return sum(map(_in_file, tensors))


def _in_file(nbytes: int) -> int:
    return 0 if nbytes <= _INLINE else -(-nbytes // _PAGE) * _PAGE


def _other_bytes(layers: int, plan: QuantizationPlan) -> int:
    """Of two graphs and the reports."""
    return 2 * (_GRAPH_BYTES + layers * _LAYER_BYTES) + len(plan.layers) * _REPORT_BYTES


def _cache_bytes(caches: list[list[CacheShape]], options: BuildOptions) -> int:
    kind = find_target(options.target).kv_cache_types[0]
    if options.kv == "int8":
        kind = "int8"
    elif options.tensorrt.dtype == "bfloat16" and find_target(options.target).tensorrt:
        kind = "bfloat16"
    pairs = (cache for layer in caches for cache in layer if isinstance(cache, KeyValueShape))
    return sum(2 * cache.kv_heads * cache.head_dim for cache in pairs) * _KINDS[kind]


def _peak(checkpoint: int, parameters: int, weights: int, largest: int, calibrates: bool) -> int:
    """Memory of a build: of calibration with the model in float32, of the largest weight, or of the smoke run.

    Pages of the checkpoint, which is mapped, count; the system drops them where memory is short.
    """
    rounding = 2 * 4 * largest
    calibrating = int(_CALIBRATED * parameters) if calibrates else 0
    return _PROGRAM + checkpoint + max(rounding, weights, calibrating)


def _seconds(
    source: ModelSource,
    options: BuildOptions,
    parameters: int,
    weights: int,
    plan: QuantizationPlan,
    shapes: dict[str, tuple[int, ...]],
) -> float:
    recipe, limits = options.chosen_recipe, options.chosen_limits
    rounded = 0
    for layer in plan.layers:
        if not layer.prequantized:
            rounded += math.prod(_matrix(layer, shapes)) * (layer.experts.experts if layer.experts else 1)
    tokens = (options.data.samples or required_windows(recipe, limits)) * options.data.length
    passes = sum(_PASSES[entry.name] for entry in active_quantizers(recipe, limits))
    if passes and options.data.data is None:
        passes += 0.5  # an int8 engine, which is built first, writes the calibration data
        rounded *= 2
    seconds = tokens * passes * 2 * parameters / _FLOPS + rounded / _ROUNDED + 2 * weights / _WRITTEN
    layers = source.config.num_hidden_layers if hasattr(source.config, "num_hidden_layers") else 0
    cores = min(os.cpu_count() or _MEASURED_CORES, 8)
    return _TRACE_S + _TRACE_LAYER_S * layers + seconds * _MEASURED_CORES / cores


def _limit_notes(limits: Limits) -> list[str]:
    return ["layers that are promoted to 8 bits make the engine larger than estimated"] if limits else []
