"""Lower quantized canonical ops that standard ops cannot express to float weights: MatMul and Gather."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.op_reference import dequantize
from edgekiln.export.passes.common.quantized_ops import QuantizedOp, quantized_gathers, quantized_matmuls
from edgekiln.export.passes.common.tensors import Array, make, new_initializer, replace_node, shape_of, values_of


class LowerToFloatWeights(InPlacePass):
    """Dequantize weights in groups when they are written; the values are exact.

    Cases:
        1. QuantizedMatMul of 8 bits in groups or with a codebook: Transpose and MatMul;
        2. QuantizedGather: Gather from a float table, which a tied LM head shares.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for op in quantized_matmuls(model):
            if op.group_size and (op.bits != 4 or op.codebook):
                transpose = make("Transpose", [_table(model.graph, op)], f"{op.name}.weight", perm=[1, 0])
                matmul = make("MatMul", [op.x, transpose.outputs[0]], f"{op.name}.float")
                replace_node(op.node, [transpose, matmul], [matmul.outputs[0]])
                modified = True
        for op in quantized_gathers(model):
            gather = make("Gather", [_table(model.graph, op), op.x], f"{op.name}.gathered", axis=0)
            replace_node(op.node, [gather], [gather.outputs[0]])
            modified = True
        return PassResult(model, modified)


def _table(graph: ir.Graph, op: QuantizedOp) -> ir.Value:
    """The float weight [N, K]."""
    n, groups = shape_of(op.scales)

    def dequantized() -> Array:
        return dequantize(
            values_of(op.qweight),
            values_of(op.scales),
            None if op.zero_points is None else values_of(op.zero_points),
            None if op.group_bias is None else values_of(op.group_bias),
            bits=op.bits,
            group_size=op.group_size,
            codebook=op.codebook,
        )

    k = groups * op.group_size
    return new_initializer(graph, f"{op.qweight.name}.float", (n, k), ir.DataType.FLOAT, dequantized)
