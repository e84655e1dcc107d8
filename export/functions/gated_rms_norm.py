"""RMSNormThenGate and GateThenRMSNorm: the norms before the output projection of layers with states."""

from typing import Final

import onnx_ir as ir
from onnx import AttributeProto, helper

from edgekiln.export.functions.define import define, with_ref_attributes

NORM_THEN_GATE: Final = "RMSNormThenGate"
GATE_THEN_NORM: Final = "GateThenRMSNorm"


def gated_rms_norm_function(name: str) -> ir.Function:
    """RMSNormThenGate: y = rms_norm(x) · silu(gate). GateThenRMSNorm: y = rms_norm(x · silu(gate)).

    Inputs: x, gate float [..., N], gamma [N]. Output: y [..., N]. Attribute: epsilon.
    """
    before = name == NORM_THEN_GATE
    norm = helper.make_node(
        "SimplifiedLayerNormalization",
        ["x" if before else "gated", "gamma"],
        ["normed" if before else "y"],
        axis=-1,
        stash_type=1,
    )
    with_ref_attributes(norm, AttributeProto.FLOAT, epsilon="epsilon")
    silu = [helper.make_node("Sigmoid", ["gate"], ["sigmoid"]), helper.make_node("Mul", ["gate", "sigmoid"], ["silu"])]
    if before:
        nodes = [*silu, norm, helper.make_node("Mul", ["normed", "silu"], ["y"])]
    else:
        nodes = [*silu, helper.make_node("Mul", ["x", "silu"], ["gated"]), norm]
    return define(name, ["x", "gate", "gamma"], ["y"], nodes, ["epsilon"])
