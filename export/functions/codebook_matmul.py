"""CodebookMatMulNBits: matrix multiplication with a weight whose 4-bit codes index a codebook, as of FP4 and IQ4_NL."""

from typing import Final

import onnx
import onnx_ir as ir
from onnx import helper

from edgekiln.export.functions.define import MICROSOFT, define, with_ref_attributes

NAME: Final = "CodebookMatMulNBits"
_SIZES = ("K", "N", "block_size")
_MIDDLE = 128  # of 8-bit codes


def codebook_matmul_function() -> ir.Function:
    """y = x · wᵀ with w = scale · codebook[code], computed as MatMulNBits with the codes of 8 bits.

    Inputs: x float [..., K], blocks uint8 [N, K / block_size, block_size / 2] of 4-bit codes, low nibble first, scales
    float [N, K / block_size], codebook int8 [16]. Output: y float [..., N].

    Attributes: K, N, block_size, and bits, which is 4.

    ONNX Runtime computes the 8-bit codes once, as those of constants are constant.
    """
    matmul = helper.make_node(
        "MatMulNBits", ["x", "eight_bits", "scales"], ["y"], domain=MICROSOFT, bits=8, accuracy_level=4
    )
    nodes = [
        # The 8-bit codes of both nibbles of each byte, [256, 2].
        helper.make_node("Constant", [], ["middle"], value_int=_MIDDLE),
        helper.make_node("Constant", [], ["low_shape"], value_ints=[1, 16, 1]),
        helper.make_node("Constant", [], ["high_shape"], value_ints=[16, 1, 1]),
        helper.make_node("Constant", [], ["nibbles_shape"], value_ints=[16, 16, 1]),
        helper.make_node("Constant", [], ["bytes_shape"], value_ints=[256, 2]),
        helper.make_node("Constant", [], ["blocks_shape"], value_ints=[0, 0, -1]),
        helper.make_node("Cast", ["codebook"], ["signed"], to=onnx.TensorProto.INT64),
        helper.make_node("Add", ["signed", "middle"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["values"], to=onnx.TensorProto.UINT8),
        helper.make_node("Reshape", ["values", "low_shape"], ["low_row"]),
        helper.make_node("Reshape", ["values", "high_shape"], ["high_column"]),
        helper.make_node("Expand", ["low_row", "nibbles_shape"], ["low"]),
        helper.make_node("Expand", ["high_column", "nibbles_shape"], ["high"]),
        helper.make_node("Concat", ["low", "high"], ["pairs"], axis=2),
        helper.make_node("Reshape", ["pairs", "bytes_shape"], ["table"]),
        helper.make_node("Cast", ["blocks"], ["bytes"], to=onnx.TensorProto.INT32),
        helper.make_node("Gather", ["table", "bytes"], ["looked_up"]),
        helper.make_node("Reshape", ["looked_up", "blocks_shape"], ["eight_bits"]),
        with_ref_attributes(matmul, onnx.AttributeProto.INT, **{name: name for name in _SIZES}),
    ]
    return define(NAME, ["x", "blocks", "scales", "codebook"], ["y"], nodes, [*_SIZES, "bits"])
