"""TwoPassMatMulNBits: an 8-bit LM head whose kernel reads the low nibbles for likely tokens only.

Pass 1 multiplies the high nibbles of the weight for the whole vocabulary, pass 2 adds the low nibbles for candidates
near the maximum. In a small model the head is a third of all weights, half of which is then not read.
"""

from typing import Final

import onnx
import onnx_ir as ir
from onnx import helper

from edgekiln.export.functions.define import MICROSOFT, define, with_ref_attributes

NAME: Final = "TwoPassMatMulNBits"
BITS: Final = 8
# Attributes of MatMulNBits that the function takes over.
SIZES: Final = ("K", "N", "bits", "block_size", "accuracy_level")


def two_pass_lm_head_function() -> ir.Function:
    """logits = MatMulNBits(x, blocks, scales, zero_points).

    Inputs: x float [..., K], blocks uint8 [N, K / block_size, block_size], scales float and zero_points uint8
    [N, K / block_size]. Output: logits float [..., N].

    Attributes: those of `SIZES`, and margin, for the kernel: logits within `margin` of the maximum get all 8 bits, the
    others 4. As a function all logits have 8 bits.
    """
    inputs = ["x", "blocks", "scales", "zero_points"]
    matmul = helper.make_node("MatMulNBits", inputs, ["logits"], domain=MICROSOFT)
    with_ref_attributes(matmul, onnx.AttributeProto.INT, **{name: name for name in SIZES})
    return define(NAME, inputs, ["logits"], [matmul], [*SIZES, "margin"])
