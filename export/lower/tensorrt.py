"""Lower the canonical graph to standard ops that TensorRT compiles without plugins; ONNX Runtime runs it as well."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import onnx_ir as ir
from onnx_ir.passes import common

from edgekiln.engine.manifest import EngineManifest, KVCacheSpec, TensorRTBuild
from edgekiln.errors import RequestError
from edgekiln.export import canonical
from edgekiln.export.lower.base import Lowering, LoweringOptions
from edgekiln.export.passes.common.half_precision import HALF_TYPES, to_half
from edgekiln.export.passes.common.share_act_order import share_orders
from edgekiln.export.passes.onnx.attention import lower_attention
from edgekiln.export.passes.onnx.qdq import static_to_qdq
from edgekiln.export.passes.onnx.quantized_ops import lower_quantized_ops

FloatType = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True)
class TensorRTForm:
    """How a graph is written for TensorRT.

    Attributes:
        capacity: tokens a row of the cache holds, which is then updated in place; None has it grow by appending, which
            every version takes.
        dtype: of activations, cache and float weights.
        fused_attention: use the op Attention where it can be used.

    Raises:
        RequestError: a value that is not one of these.
    """

    capacity: int | None
    dtype: FloatType = "float16"
    fused_attention: bool = True

    def __post_init__(self) -> None:
        if self.dtype not in get_args(FloatType):
            raise RequestError(f"dtype must be one of {', '.join(get_args(FloatType))}, got {self.dtype}")
        if self.capacity is not None and self.capacity < 1:
            raise RequestError(f"capacity must be at least 1 token, got {self.capacity}")


def lower(model: ir.Model, form: TensorRTForm) -> None:
    """Lower in place."""
    share_orders(model)
    lower_attention(model, form.capacity, form.fused_attention)
    static_to_qdq(model)
    lower_quantized_ops(model)
    common.RemoveUnusedNodesPass()(model)
    model.opset_imports.pop(canonical.DOMAIN, None)
    if form.dtype in HALF_TYPES:
        to_half(model, HALF_TYPES[form.dtype])


def _lower(model: ir.Model, options: LoweringOptions) -> None:
    chosen = options.tensorrt
    lower(model, TensorRTForm(options.max_length if chosen.cache == "in-place" else None, chosen.dtype))


def _kv_cache(options: LoweringOptions) -> KVCacheSpec:
    return KVCacheSpec(layout=options.tensorrt.cache, dtype=options.tensorrt.dtype)


def _check(options: LoweringOptions) -> None:
    from edgekiln.calib.tensorrt.builder import able_library

    able_library(options.target, options.tensorrt)


def _compile(graph: Path, manifest: EngineManifest, plan: Path, options: LoweringOptions) -> TensorRTBuild:
    from edgekiln.calib.tensorrt.builder import build_plan

    return build_plan(graph, options.target, options.tensorrt, manifest, plan)


LOWERING: Final = Lowering(lower=_lower, kv_cache=_kv_cache, check=_check, compile=_compile)
