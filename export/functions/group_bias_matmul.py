"""GroupBiasMatMulNBits: matrix multiplication with a weight that has a float bias a group (llama.cpp's "min")."""

from typing import Final

import onnx
import onnx_ir as ir
from onnx import helper

from edgekiln.export.functions.define import MICROSOFT, define, with_ref_attributes

NAME: Final = "GroupBiasMatMulNBits"
_SIZES = ("K", "N", "bits", "block_size")
_GROUP_SHAPE = "group_shape"


def group_bias_matmul_function() -> ir.Function:
    """y = x · wᵀ with w = scale · (code - 2^(bits - 1)) + bias, computed as MatMulNBits plus a second GEMM.

    Inputs: x float [..., K], blocks uint8 [N, K / block_size, block_size · bits / 8], scales and group_bias float
    [N, K / block_size]. Output: y float [..., N].

    Attributes: K, N, bits, block_size, and group_shape, which Reshape takes to split the last axis of x into groups.

    The bias of a group is multiplied by the sum of x over the group. MatMulNBits takes float zero points as well, which
    would express the bias, but is 100 times slower with them.
    """
    matmul = helper.make_node("MatMulNBits", ["x", "blocks", "scales"], ["product"], domain=MICROSOFT, accuracy_level=4)
    group_shape = helper.make_node("Constant", [], ["group_shape"])
    nodes = [
        with_ref_attributes(matmul, onnx.AttributeProto.INT, **{name: name for name in _SIZES}),
        with_ref_attributes(group_shape, onnx.AttributeProto.INTS, value_ints=_GROUP_SHAPE),
        helper.make_node("Constant", [], ["last"], value_ints=[-1]),
        helper.make_node("Reshape", ["x", "group_shape"], ["groups"]),
        helper.make_node("ReduceSum", ["groups", "last"], ["sums"], keepdims=0),
        helper.make_node("Transpose", ["group_bias"], ["bias"], perm=[1, 0]),
        helper.make_node("MatMul", ["sums", "bias"], ["bias_product"]),
        helper.make_node("Add", ["product", "bias_product"], ["y"]),
    ]
    return define(NAME, ["x", "blocks", "scales", "group_bias"], ["y"], nodes, [*_SIZES, _GROUP_SHAPE])
