"""The product with weights that have a float offset a group, as a function of ONNX Runtime's ops.

edgekiln's native kernel does the same in a single pass over the weight.
"""

import onnx
import onnx_ir as ir
from onnx import helper

from edgekiln.export.functions.define import define, handed_on

NAME = "GroupBiasMatMulNBits"
_NUMBERS = ("K", "N", "bits", "block_size")
_BY_GROUP = "by_group"


def group_bias_matmul_function() -> ir.Function:
    """x float [..., K], blocks uint8 [N, K / block_size, block_size · bits / 8] of symmetric codes, scales and offsets
    float [N, K / block_size] to float [..., N].

    The offsets' part is a second, small product, of the sums of x over each group. MatMulNBits takes float zero points
    too, but is a hundred times slower with them. Attribute by_group is the shape that x is reshaped to for the sums.
    """
    product = helper.make_node(
        "MatMulNBits", ["x", "blocks", "scales"], ["product"], domain="com.microsoft", accuracy_level=4
    )
    by_group = helper.make_node("Constant", [], ["by_group"])
    nodes = [
        handed_on(product, onnx.AttributeProto.INT, **{name: name for name in _NUMBERS}),
        handed_on(by_group, onnx.AttributeProto.INTS, value_ints=_BY_GROUP),
        helper.make_node("Constant", [], ["last"], value_ints=[-1]),
        helper.make_node("Reshape", ["x", "by_group"], ["groups"]),
        helper.make_node("ReduceSum", ["groups", "last"], ["sums"], keepdims=0),
        helper.make_node("Transpose", ["offsets"], ["columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["sums", "columns"], ["part"]),
        helper.make_node("Add", ["product", "part"], ["y"]),
    ]
    return define(NAME, ["x", "blocks", "scales", "offsets"], ["y"], nodes, [*_NUMBERS, _BY_GROUP])
