"""Lower the canonical graph to standard ops, which TensorRT compiles without plugins and ONNX Runtime runs as well."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import onnx_ir as ir
from onnx_ir.passes import Sequential, common

from edgekiln.engine.manifest import EngineManifest, KVCacheSpec, TensorRTBuild
from edgekiln.errors import RequestError
from edgekiln.export import canonical
from edgekiln.export.lower.base import Lowering, LoweringOptions, run_passes
from edgekiln.export.passes.common.dense_experts import MakeExpertsDense
from edgekiln.export.passes.common.expert_notes import dense_notes
from edgekiln.export.passes.common.half_precision import HALF_TYPES, ConvertToHalf
from edgekiln.export.passes.common.sequence_length import LowerSequenceLength
from edgekiln.export.passes.common.share_act_order import ShareActOrder
from edgekiln.export.passes.onnx.attention import LowerToOnnxAttention
from edgekiln.export.passes.onnx.expert_matmul import LowerExpertMatMulToDense
from edgekiln.export.passes.onnx.float_weights import LowerToFloatWeights
from edgekiln.export.passes.onnx.int4_matmul import LowerInt4ToDequantizeLinear
from edgekiln.export.passes.onnx.int8_experts import LowerInt8ExpertsToQDQ
from edgekiln.export.passes.onnx.per_token_int8 import LowerPerTokenInt8ToQDQ
from edgekiln.export.passes.onnx.recurrence import RECURRENT_OPS, LowerRecurrenceToOnnx
from edgekiln.export.passes.onnx.static_int8 import LowerStaticInt8ToQDQ

FloatType = Literal["float16", "bfloat16", "float32"]

# Every QuantizedMatMul and QuantizedGather to standard ops.
LOWER_QUANTIZED_OPS: Final = Sequential(
    LowerStaticInt8ToQDQ(),
    LowerPerTokenInt8ToQDQ(),
    LowerInt4ToDequantizeLinear(),
    LowerToFloatWeights(),
)


@dataclass(frozen=True)
class GraphOptions:
    """Variants of the lowered graph.

    Attributes:
        capacity: tokens of a sequence that the in-place KV cache holds; None for a growing cache, which every version
            of TensorRT takes.
        dtype: type of activations, KV cache and float weights.
        fused_attention: use the op Attention where it can be used, which is not in models with recurrent layers.

    Raises:
        RequestError: a value out of range.
    """

    capacity: int | None
    dtype: FloatType = "float16"
    fused_attention: bool = True

    def __post_init__(self) -> None:
        if self.dtype not in get_args(FloatType):
            raise RequestError(f"dtype must be one of {', '.join(get_args(FloatType))}, got {self.dtype}")
        if self.capacity is not None and self.capacity < 1:
            raise RequestError(f"capacity must be at least 1 token, got {self.capacity}")


def lower(model: ir.Model, options: GraphOptions) -> None:
    """Lower a canonical graph in place.

    Raises:
        UnsupportedModelError: when weights are written, a weight exceeds the range of float16.
    """
    # TensorRT loses the sizes of what Conv and Scan compute, and with it the number of heads that its Attention needs.
    recurrent = any(node.op_type in RECURRENT_OPS for node in model.graph)
    passes = Sequential(
        LowerSequenceLength(0),
        ShareActOrder(),
        LowerToOnnxAttention(options.capacity, options.fused_attention and not recurrent),
        LowerRecurrenceToOnnx(padded=options.capacity is None),
        MakeExpertsDense(),
        LowerInt8ExpertsToQDQ(),
        LowerExpertMatMulToDense(),
        LOWER_QUANTIZED_OPS,
        common.RemoveUnusedNodesPass(),
    )
    run_passes(model, passes)
    model.opset_imports.pop(canonical.DOMAIN, None)
    if options.dtype in HALF_TYPES:
        run_passes(model, Sequential(ConvertToHalf(HALF_TYPES[options.dtype])))


def _lower(model: ir.Model, options: LoweringOptions) -> None:
    chosen = options.tensorrt
    lower(model, GraphOptions(options.max_length if chosen.cache == "in-place" else None, chosen.dtype))


def _kv_cache(_model: ir.Model, options: LoweringOptions) -> KVCacheSpec:
    return KVCacheSpec(layout=options.tensorrt.cache, dtype=options.tensorrt.dtype)


def _check(options: LoweringOptions) -> None:
    from edgekiln.calib.tensorrt.builder import require_compiler

    require_compiler(options.target, options.tensorrt)


def _compile(graph: Path, manifest: EngineManifest, plan: Path, options: LoweringOptions) -> TensorRTBuild:
    from edgekiln.calib.tensorrt.builder import build_plan

    return build_plan(graph, options.target, options.tensorrt, manifest, plan)


def _notes(model: ir.Model, _options: LoweringOptions) -> list[str]:
    return dense_notes(model, "TensorRT")


LOWERING: Final = Lowering(lower=_lower, kv_cache=_kv_cache, notes=_notes, check=_check, compile=_compile)
