"""Lower QuantizedMatMul with static int8 activations to QuantizeLinear + com.microsoft::MatMulIntegerToFloat."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.define import MICROSOFT
from edgekiln.export.passes.common.per_channel import transposed_codes
from edgekiln.export.passes.common.quantized_ops import QuantizedOp, quantized_matmuls
from edgekiln.export.passes.common.tensors import constant, input_of, make, replace_node, values_of


class LowerToMatMulIntegerToFloat(InPlacePass):
    """Replace QuantizedMatMul with static int8 activations by QuantizeLinear and MatMulIntegerToFloat.

    Nodes with the same input and input scale share the QuantizeLinear. It quantizes to uint8 with zero point 128, which
    gives the results of int8 with zero point 0; ONNX Runtime has no fast kernel for int8 activations on x86.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        quantized: dict[tuple[ir.Value, float], ir.Value] = {}
        modified = False
        for op in quantized_matmuls(model):
            if op.activation == "int8-static" and not op.group_size and not op.codebook:
                _lower(model.graph, op, quantized)
                modified = True
        return PassResult(model, modified)


def _lower(graph: ir.Graph, op: QuantizedOp, quantized: dict[tuple[ir.Value, float], ir.Value]) -> None:
    input_scale = input_of(op.node, 5)
    zero_point = constant(graph, "activation_zero_point", np.array(128, dtype=np.uint8))
    key = (op.x, float(values_of(input_scale)))
    new: list[ir.Node] = []
    if key not in quantized:
        new.append(make("QuantizeLinear", [op.x, input_scale, zero_point], f"{op.name}.codes"))
        quantized[key] = new[-1].outputs[0]
    inputs = [quantized[key], transposed_codes(graph, op.qweight), input_scale, op.scales, zero_point]
    matmul = make("MatMulIntegerToFloat", inputs, f"{op.name}.int8", domain=MICROSOFT)
    replace_node(op.node, [*new, matmul], [matmul.outputs[0]])
