"""Lower the canonical graph to what ONNX Runtime's CUDA kernels run: the ort-cpu graph, in binary16.

What differs from the CPU:
    1. the largest length of a batch is an input of its own, `total_length`, because the attention kernel reads it on
       the host: computed in the graph it would be copied back from the device in every step, which CUDA graphs refuse;
    2. weights with int8 activations become 8-bit weights in groups (see `weight_only`): no kernel multiplies int8 by
       int8 and scales the result;
    3. functions are written out, as edgekiln's own kernels run on a CPU only;
    4. activations, cache, scales, float weights and rotary angles are binary16; logits leave as float32.
"""

from typing import Final

import onnx
import onnx_ir as ir
from onnx import helper
from onnx_ir.passes import common

from edgekiln.engine.manifest import GraphIO, KVCacheSpec
from edgekiln.export import canonical
from edgekiln.export.functions.define import DOMAIN
from edgekiln.export.lower import ort_cpu
from edgekiln.export.lower.base import ExtraGraph, Lowering
from edgekiln.export.passes.common.half_precision import to_half
from edgekiln.export.passes.ort.group_query_attention import MICROSOFT
from edgekiln.export.passes.ort.weight_only import weights_only

KEY_VALUE_KIND: Final = "shared-buffer"
KEY_VALUE_TYPE: Final = "float16"
TOTAL_LENGTH: Final = "total_length"
IR_VERSION = 10


def lower(model: ir.Model, max_length: int) -> None:
    """Lower in place; `max_length` positions get rotary angles.

    Raises:
        UnsupportedModelError: naming what ONNX Runtime's kernels do not take.
    """
    total_length = ir.Value(name=TOTAL_LENGTH, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT32))
    model.graph.inputs.append(total_length)
    weights_only(model)
    ort_cpu.lower_ops(model, max_length, total_length)
    common.InlinePass()(model)
    model.opset_imports.pop(DOMAIN, None)
    for node in model.graph:
        # It would have the CPU's kernel round activations; CUDA's does not.
        node.attributes.pop("accuracy_level", None)
        _type_output(node)
    to_half(model, ir.DataType.FLOAT16)


def growth_graph() -> ir.Model:
    """A graph that moves keys or values to a larger buffer: `present` is `past` and `zeros` more slots behind it.

    past float16 [B, KV, P, D], zeros int64 [4] the shape of what is added; present float16 [B, KV, P + zeros[2], D].
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
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION))


def _type_output(node: ir.Node) -> None:
    """ONNX infers no types of ONNX Runtime's own ops; those here that lack one give floats."""
    if node.domain == MICROSOFT and node.outputs[0].type is None:
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)


LOWERING: Final = Lowering(
    lower=lambda model, options: lower(model, options.max_length),
    kv_cache=lambda _: KVCacheSpec(layout=KEY_VALUE_KIND, dtype=KEY_VALUE_TYPE),
    io=GraphIO(total_length=TOTAL_LENGTH),
    extra_graphs={"grow": ExtraGraph("grow.onnx", growth_graph)},
)
