"""The product of rows that are rounded to int8 with an int8 weight, as a function of ONNX Runtime's ops.

y = r · MatMul8(x / r) with r = max|x| of each row: after the division one static scale fits all rows, so that no kernel
has to look for it. The codes are unsigned, around 128: ONNX Runtime has no fast kernel for signed ones on x86.
"""

import numpy as np
import onnx_ir as ir
from onnx import helper, numpy_helper

from edgekiln.export.functions.define import define

NAME = "PerTokenInt8MatMul"
# Keeps the quotient finite where a row is all zero; far below any row that carries information.
_SMALLEST_ROW_MAXIMUM = 1e-10


def per_token_int8_function() -> ir.Function:
    """x float [..., K], codes int8 [K, N], scales float [N] to float [..., N]; attributes K and N say the sizes."""
    unit = numpy_helper.from_array(np.array(1 / 127, dtype=np.float32))
    middle = numpy_helper.from_array(np.array(128, dtype=np.uint8))
    nodes = [
        helper.make_node("Constant", [], ["unit"], value=unit),
        helper.make_node("Constant", [], ["middle"], value=middle),
        helper.make_node("Constant", [], ["smallest"], value_float=_SMALLEST_ROW_MAXIMUM),
        helper.make_node("Constant", [], ["last"], value_ints=[-1]),
        helper.make_node("Abs", ["x"], ["magnitude"]),
        helper.make_node("ReduceMax", ["magnitude", "last"], ["largest"], keepdims=1),
        helper.make_node("Max", ["largest", "smallest"], ["maximum"]),
        helper.make_node("Div", ["x", "maximum"], ["quotient"]),
        helper.make_node("QuantizeLinear", ["quotient", "unit", "middle"], ["rows"]),
        helper.make_node(
            "MatMulIntegerToFloat",
            ["rows", "codes", "unit", "scales", "middle"],
            ["product"],
            domain="com.microsoft",
        ),
        helper.make_node("Mul", ["product", "maximum"], ["y"]),
    ]
    return define(NAME, ["x", "codes", "scales"], ["y"], nodes, ["K", "N"])
