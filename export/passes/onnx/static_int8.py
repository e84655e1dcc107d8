"""Lower QuantizedMatMul with static int8 activations to QuantizeLinear, DequantizeLinear and MatMul."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.passes.common.per_channel import transposed_codes
from edgekiln.export.passes.common.quantized_ops import QuantizedOp, quantized_matmuls
from edgekiln.export.passes.common.tensors import input_of, make, replace_node, values_of

_INT8 = ir.DataType.INT8.value


class LowerStaticInt8ToQDQ(InPlacePass):
    """Replace QuantizedMatMul with static int8 activations by MatMul of Q/DQ pairs, which TensorRT fuses to int8 GEMMs.

    x · dequantize(qweight)ᵀ becomes MatMul(DequantizeLinear(QuantizeLinear(x)), DequantizeLinear(codes)), both int8
    with zero point 0, one scale for x and one an output channel. Nodes with the same input and input scale share its
    Q/DQ pair. ONNX Runtime runs the graph in float32 and gives the results of its int8 kernels.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        fake_quantized: dict[tuple[ir.Value, float], ir.Value] = {}
        modified = False
        for op in quantized_matmuls(model):
            if op.activation == "int8-static":
                _lower(model.graph, op, fake_quantized)
                modified = True
        return PassResult(model, modified)


def _lower(graph: ir.Graph, op: QuantizedOp, fake_quantized: dict[tuple[ir.Value, float], ir.Value]) -> None:
    input_scale = input_of(op.node, 5)
    key = (op.x, float(values_of(input_scale)))
    new: list[ir.Node] = []
    if key not in fake_quantized:
        codes = make("QuantizeLinear", [op.x, input_scale], f"{op.name}.codes", output_dtype=_INT8)
        dequantized = make("DequantizeLinear", [codes.outputs[0], input_scale], f"{op.name}.fake_quantized")
        new += [codes, dequantized]
        fake_quantized[key] = dequantized.outputs[0]
    weight = make("DequantizeLinear", [transposed_codes(graph, op.qweight), op.scales], f"{op.name}.weight", axis=1)
    matmul = make("MatMul", [fake_quantized[key], weight.outputs[0]], f"{op.name}.matmul")
    replace_node(op.node, [*new, weight, matmul], [matmul.outputs[0]])
