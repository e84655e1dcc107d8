"""Layers with a static int8 input as QuantizeLinear, DequantizeLinear and MatMul: what TensorRT fuses to int8 products.

x · dequantize(qweight)ᵀ becomes MatMul(DequantizeLinear(QuantizeLinear(x)), DequantizeLinear(codes)): int8 both, zero
point 0, one scale for x and one an output channel. Layers that read the same x with the same scale share its codes.
ONNX Runtime runs the graph too, in float, and gives what its int8 kernels do.
"""

import onnx_ir as ir

from edgekiln.export import canonical
from edgekiln.export.passes.common.tensors import attribute, make, replace_node, values_of
from edgekiln.export.passes.ort.quantized_ops import transposed_codes

_INT8 = ir.DataType.INT8.value


def static_to_qdq(model: ir.Model) -> None:
    """Lower every QuantizedMatMul with a static input, in place; all else stays."""
    rounded: dict[tuple[ir.Value, float], ir.Value] = {}
    for node in list(model.graph):
        if (node.domain, node.op_type) != (canonical.DOMAIN, "QuantizedMatMul"):
            continue
        if attribute(node, "activation") == "int8-static":
            _lower(model.graph, node, rounded)


def _lower(graph: ir.Graph, node: ir.Node, rounded: dict[tuple[ir.Value, float], ir.Value]) -> None:
    x, qweight, scales, _, _, unit = node.inputs
    assert x is not None
    assert qweight is not None
    assert unit is not None
    name = node.outputs[0].name or "matmul"
    key = (x, float(values_of(unit)))
    new: list[ir.Node] = []
    if key not in rounded:
        codes = make("QuantizeLinear", [x, unit], f"{name}.codes", output_dtype=_INT8)
        back = make("DequantizeLinear", [codes.outputs[0], unit], f"{name}.rounded")
        new += [codes, back]
        rounded[key] = back.outputs[0]
    weight = make("DequantizeLinear", [transposed_codes(graph, qweight), scales], f"{name}.weight", axis=1)
    product = make("MatMul", [rounded[key], weight.outputs[0]], f"{name}.product")
    replace_node(node, [*new, weight, product], [product.outputs[0]])
