"""Fuse Split, Sigmoid, Mul and Mul into edgekiln.ort::SwiGLU."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.define import DOMAIN, add_function
from edgekiln.export.functions.swiglu import NAME, swiglu_function
from edgekiln.export.passes.common.tensors import make, replace_node


class FuseSwiGLU(InPlacePass):
    """Fuse Mul(Mul(gate, Sigmoid(gate)), up), with gate and up the halves of one Split, into SwiGLU.

    A match whose intermediate values have other readers is left alone.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for split in list(model.graph):
            if split.op_type != "Split" or len(split.outputs) != 2:
                continue
            gate, up = split.outputs
            last = _last_mul(gate, up)
            if last is None or not _halves(gate, up):
                continue
            add_function(model, swiglu_function())
            fused = make(NAME, [split.inputs[0]], f"{last.outputs[0].name}.swiglu", domain=DOMAIN)
            replace_node(last, [fused], [fused.outputs[0]])
            modified = True
        return PassResult(model, modified)


def _last_mul(gate: ir.Value, up: ir.Value) -> ir.Node | None:
    """The Mul that computes gate · sigmoid(gate) · up, if nothing else reads its parts."""
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
