"""The activation of a gated layer whose gate and up are one product, as a function of standard ops.

Three ops and a copy of both halves become one pass in edgekiln's native kernel.
"""

import onnx_ir as ir
from onnx import helper

from edgekiln.export.functions import define as ort_functions
from edgekiln.export.passes.common.tensors import make, replace_node

NAME = "SwiGLU"


def swiglu_function() -> ir.Function:
    """x float [..., 2 N], gates and then ups, to silu(gate) · up, float [..., N]; silu(x) = x / (1 + e^-x)."""
    nodes = [
        helper.make_node("Split", ["x"], ["gate", "up"], axis=-1, num_outputs=2),
        helper.make_node("Sigmoid", ["gate"], ["sigmoid"]),
        helper.make_node("Mul", ["gate", "sigmoid"], ["silu"]),
        helper.make_node("Mul", ["silu", "up"], ["y"]),
    ]
    return ort_functions.define(NAME, ["x"], ["y"], nodes)


def fuse_gated_silu(model: ir.Model) -> None:
    """Find the halves of a Split, Sigmoid, Mul, Mul, in place; what is read elsewhere too stays."""
    for split in list(model.graph):
        if split.op_type != "Split" or len(split.outputs) != 2:
            continue
        gate, up = split.outputs
        found = _product(gate, up)
        if found is None or not _halves(gate, up):
            continue
        ort_functions.declare(model, swiglu_function())
        fused = make(NAME, [split.inputs[0]], f"{found.outputs[0].name}.gated", domain=ort_functions.DOMAIN)
        replace_node(found, [fused], [fused.outputs[0]])


def _product(gate: ir.Value, up: ir.Value) -> ir.Node | None:
    """The node that computes gate · sigmoid(gate) · up, if nothing else reads its parts."""
    readers = {node.op_type: node for node, _ in gate.uses()}
    sigmoid, silu = readers.get("Sigmoid"), readers.get("Mul")
    if len(gate.uses()) != 2 or sigmoid is None or silu is None:
        return None
    if set(silu.inputs) != {gate, sigmoid.outputs[0]} or len(sigmoid.outputs[0].uses()) != 1:
        return None
    if len(silu.outputs[0].uses()) != 1 or len(up.uses()) != 1:
        return None
    (last, _), (other, _) = *silu.outputs[0].uses(), *up.uses()
    return last if last is other and last.op_type == "Mul" else None


def _halves(gate: ir.Value, up: ir.Value) -> bool:
    if gate.shape is None or up.shape is None:
        return False
    return isinstance(gate.shape[-1], int) and gate.shape[-1] == up.shape[-1]
