"""Lower QuantizedMatMul with per-token int8 activations to a normalized Q/DQ pair + MatMul."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.passes.common.per_channel import transposed_codes
from edgekiln.export.passes.common.quantized_ops import QuantizedOp, quantized_matmuls
from edgekiln.export.passes.common.tensors import constant, make, replace_node

_INT8 = ir.DataType.INT8.value
# Keeps x / max|x| finite for a token of zeros, in float16 too.
_SMALLEST_MAXIMUM = 1e-4


class LowerPerTokenInt8ToQDQ(InPlacePass):
    """Replace QuantizedMatMul with per-channel weights by y = r · MatMul(QDQ(x / r), DequantizeLinear(codes)).

    r = max|x| of each token: after the division one static scale of 1/127 fits every token, so that runtimes with
    per-tensor activation scales can run it. Nodes with the same input share r and the Q/DQ pair.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        normalized: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        modified = False
        for op in quantized_matmuls(model):
            if not op.group_size:
                _lower(model.graph, op, normalized)
                modified = True
        return PassResult(model, modified)


def _lower(graph: ir.Graph, op: QuantizedOp, normalized: dict[ir.Value, tuple[ir.Value, ir.Value]]) -> None:
    new: list[ir.Node] = []
    if op.x not in normalized:
        new, normalized[op.x] = normalize_tokens(graph, op.x)
    quantized, maximum = normalized[op.x]
    weight = make("DequantizeLinear", [transposed_codes(graph, op.qweight), op.scales], f"{op.name}.weight", axis=1)
    matmul = make("MatMul", [quantized, weight.outputs[0]], f"{op.name}.int8")
    scaled = make("Mul", [matmul.outputs[0], maximum], f"{op.name}.rescaled")
    replace_node(op.node, [*new, weight, matmul, scaled], [scaled.outputs[0]])


def normalize_tokens(graph: ir.Graph, x: ir.Value) -> tuple[list[ir.Node], tuple[ir.Value, ir.Value]]:
    """Nodes for the fake-quantized x / r and for r [..., 1], and these two values."""
    unit = constant(graph, "per_token.unit", np.array(1 / 127, dtype=np.float32))
    axis = constant(graph, "last_axis", np.array([-1], dtype=np.int64))
    smallest = constant(graph, "per_token.smallest_maximum", np.array(_SMALLEST_MAXIMUM, dtype=np.float32))
    magnitude = make("Abs", [x], f"{x.name}.magnitude")
    largest = make("ReduceMax", [magnitude.outputs[0], axis], f"{x.name}.largest", keepdims=1)
    maximum = make("Max", [largest.outputs[0], smallest], f"{x.name}.token_maximum")
    quotient = make("Div", [x, maximum.outputs[0]], f"{x.name}.normalized")
    codes = make("QuantizeLinear", [quotient.outputs[0], unit], f"{x.name}.codes", output_dtype=_INT8)
    dequantized = make("DequantizeLinear", [codes.outputs[0], unit], f"{x.name}.fake_quantized")
    nodes = [magnitude, largest, maximum, quotient, codes, dequantized]
    return nodes, (dequantized.outputs[0], maximum.outputs[0])
