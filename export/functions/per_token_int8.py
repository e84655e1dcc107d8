"""PerTokenInt8MatMul: int8 matrix multiplication (W8A8) with one activation scale a token."""

from typing import Final

import numpy as np
import onnx_ir as ir
from onnx import helper, numpy_helper

from edgekiln.export.functions.define import MICROSOFT, define

NAME: Final = "PerTokenInt8MatMul"
# Keeps x / max|x| finite for a token of zeros; far below the maximum of any other token.
_SMALLEST_MAXIMUM = 1e-10


def per_token_int8_function() -> ir.Function:
    """y = r · MatMulIntegerToFloat(quantize(x / r), codes) with r = max|x| of each token.

    Inputs: x float [..., K], codes int8 [K, N], scales float [N]. Output: y float [..., N]. Attributes: K, N, for the
    kernel.

    After the division every token spans [-1, 1], so that one static scale of 1/127 fits all. Activations are quantized
    to uint8 with zero point 128: ONNX Runtime has no fast kernel for int8 activations on x86.
    """
    unit = numpy_helper.from_array(np.array(1 / 127, dtype=np.float32))
    zero_point = numpy_helper.from_array(np.array(128, dtype=np.uint8))
    nodes = [
        helper.make_node("Constant", [], ["unit"], value=unit),
        helper.make_node("Constant", [], ["zero_point"], value=zero_point),
        helper.make_node("Constant", [], ["smallest"], value_float=_SMALLEST_MAXIMUM),
        helper.make_node("Constant", [], ["last"], value_ints=[-1]),
        helper.make_node("Abs", ["x"], ["magnitude"]),
        helper.make_node("ReduceMax", ["magnitude", "last"], ["largest"], keepdims=1),
        helper.make_node("Max", ["largest", "smallest"], ["maximum"]),
        helper.make_node("Div", ["x", "maximum"], ["normalized"]),
        helper.make_node("QuantizeLinear", ["normalized", "unit", "zero_point"], ["quantized"]),
        helper.make_node(
            "MatMulIntegerToFloat",
            ["quantized", "codes", "unit", "scales", "zero_point"],
            ["product"],
            domain=MICROSOFT,
        ),
        helper.make_node("Mul", ["product", "maximum"], ["y"]),
    ]
    return define(NAME, ["x", "codes", "scales"], ["y"], nodes, ["K", "N"])
