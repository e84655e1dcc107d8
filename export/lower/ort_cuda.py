"""Lower the canonical graph for ONNX Runtime on CUDA: the ort-cpu graph in float16.

Differences from ort-cpu:
    1. `total_length`, the largest length of a batch, is a graph input. The attention kernel reads it on the host;
       computed in the graph it would be copied from the device in every step, which CUDA graphs do not allow;
    2. weights with int8 activations become weight-only in groups (`MakeWeightOnly`): CUDA has no int8 matrix
       multiplication with scales;
    3. functions are inlined, as edgekiln's kernels run on CPUs only;
    4. activations, KV cache, scales, float weights and rotary caches are float16; logits are float32;
    5. attentions read rotary caches, up to a size: without them a layer has three more kernels to launch;
    6. sliding-window layers hold the keys and values of the whole sequence;
    7. mixtures of experts are QMoE where its kernels take them, and otherwise products with all experts, as a loop
       cannot be in a CUDA graph.
"""

from typing import Final

import onnx
import onnx_ir as ir
from onnx import helper
from onnx_ir.passes import Sequential, common

from edgekiln.engine.graph_io import GraphIO
from edgekiln.engine.manifest import KVCacheSpec
from edgekiln.export import canonical
from edgekiln.export.functions.define import DOMAIN
from edgekiln.export.lower import ort_cpu
from edgekiln.export.lower.base import ExtraGraph, Lowering, LoweringOptions, run_passes
from edgekiln.export.passes.common.dense_experts import MakeExpertsDense
from edgekiln.export.passes.common.expert_notes import dense_notes
from edgekiln.export.passes.common.half_precision import ConvertToHalf
from edgekiln.export.passes.onnx.expert_matmul import LowerExpertMatMulToDense
from edgekiln.export.passes.ort.cuda_attributes import SetCudaAttributes
from edgekiln.export.passes.ort.qmoe import LowerToQMoE
from edgekiln.export.passes.ort.weight_only import MakeWeightOnly

TOTAL_LENGTH: Final = "total_length"
_IR_VERSION = 10
# Of a rotary cache as float32; it is stored in half of it. Enough for 131072 tokens and heads of 64.
_ROTARY_CACHE_BYTES = 32 << 20


# Experts to QMoE where it computes them, otherwise to products of all experts: loops cannot be in CUDA graphs.
LOWER_EXPERTS: Final = Sequential(MakeWeightOnly(), LowerToQMoE(), MakeExpertsDense(), LowerExpertMatMulToDense())


def lower(model: ir.Model, max_length: int) -> None:
    """Lower a canonical graph in place.

    Args:
        model: the graph.
        max_length: tokens of a sequence, at most.

    Raises:
        UnsupportedModelError: ONNX Runtime's kernels cannot run the model.
    """
    total_length = ir.Value(name=TOTAL_LENGTH, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT32))
    model.graph.inputs.append(total_length)
    run_passes(model, LOWER_EXPERTS)
    ort_cpu.lower_ops(model, max_length, total_length, rotary_cache_bytes=_ROTARY_CACHE_BYTES)
    common.InlinePass()(model)
    model.opset_imports.pop(DOMAIN, None)
    run_passes(model, Sequential(SetCudaAttributes(), ConvertToHalf(ir.DataType.FLOAT16)))


def growth_graph() -> ir.Model:
    """A graph that copies keys or values to a larger buffer.

    Inputs: past float16 [B, KV, P, D]; zeros int64 [4], the shape of the slots to add. Output: present float16
    [B, KV, P + zeros[2], D], past followed by zeros.
    """
    kind = onnx.TensorProto.FLOAT16
    nodes = [
        helper.make_node("Expand", ["zero", "zeros"], ["added"]),
        helper.make_node("Concat", ["past", "added"], ["present"], axis=2),
    ]
    graph = helper.make_graph(
        nodes,
        "grow",
        [
            helper.make_tensor_value_info("past", kind, ["B", "KV", "P", "D"]),
            helper.make_tensor_value_info("zeros", onnx.TensorProto.INT64, [4]),
        ],
        [helper.make_tensor_value_info("present", kind, ["B", "KV", "C", "D"])],
        [helper.make_tensor("zero", kind, [1, 1, 1, 1], [0.0])],
    )
    opsets = [helper.make_opsetid("", canonical.OPSET)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION))


def _notes(model: ir.Model, _options: LoweringOptions) -> list[str]:
    """On experts that QMoE does not take."""
    if not dense_notes(model, ""):
        return []
    lowered = model.clone()
    run_passes(lowered, Sequential(MakeWeightOnly(), LowerToQMoE()))
    return dense_notes(lowered, "ONNX Runtime on CUDA")


LOWERING: Final = Lowering(
    lower=lambda model, options: lower(model, options.max_length),
    kv_cache=lambda _model, _options: KVCacheSpec(layout="shared-buffer", dtype="float16"),
    notes=_notes,
    io=GraphIO(total_length=TOTAL_LENGTH),
    extra_graphs={"grow": ExtraGraph("grow.onnx", growth_graph)},
)
