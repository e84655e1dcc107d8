"""SwiGLU: the activation of a gated feed-forward layer whose gate and up projections are one matrix multiplication."""

from typing import Final

import onnx_ir as ir
from onnx import helper

from edgekiln.export.functions.define import define

NAME: Final = "SwiGLU"


def swiglu_function() -> ir.Function:
    """y = silu(gate) · up with silu(x) = x / (1 + e^-x) and [gate, up] = x.

    Source: Shazeer, "GLU Variants Improve Transformer" (2020).
    Input: x float [..., 2 N], the gates in front. Output: y float [..., N].
    """
    nodes = [
        helper.make_node("Split", ["x"], ["gate", "up"], axis=-1, num_outputs=2),
        helper.make_node("Sigmoid", ["gate"], ["sigmoid"]),
        helper.make_node("Mul", ["gate", "sigmoid"], ["silu"]),
        helper.make_node("Mul", ["silu", "up"], ["y"]),
    ]
    return define(NAME, ["x"], ["y"], nodes)
