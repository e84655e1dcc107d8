"""Fuse RMSNormalization and the SiLU gate before or after it into functions of edgekiln.ort."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, common

from edgekiln.export.functions.define import DOMAIN, add_function
from edgekiln.export.functions.gated_rms_norm import GATE_THEN_NORM, NORM_THEN_GATE, gated_rms_norm_function
from edgekiln.export.passes.common.tensors import attribute, inputs_of, make, name_of, only_reader, replace_node
from edgekiln.export.passes.ort.match_recurrence import match_silu, other_factor, producer_of


class FuseGatedRMSNorm(InPlacePass):
    """Fuse the norms of layers with states.

    Cases:
        1. rms_norm(x) · silu(gate): RMSNormThenGate (Gated DeltaNet);
        2. rms_norm(x · silu(gate)): GateThenRMSNorm (Mamba-2).
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in list(model.graph):
            if node.op_type == "RMSNormalization" and node.domain == "" and (match := _match(node)):
                name, x, gate, last = match
                _, gamma = inputs_of(node, 2)
                epsilon = float(attribute(node, "epsilon")) if "epsilon" in node.attributes else 1e-5
                add_function(model, gated_rms_norm_function(name))
                new = make(name, [x, gate, gamma], f"{name_of(last)}.gated", domain=DOMAIN, epsilon=epsilon)
                replace_node(last, [new], [new.outputs[0]])
                modified = True
        common.RemoveUnusedNodesPass()(model)
        return PassResult(model, modified)


def _match(norm: ir.Node) -> tuple[str, ir.Value, ir.Value, ir.Node] | None:
    """The function, x, the gate and the last of the nodes."""
    x, gamma = inputs_of(norm, 2)
    if gamma.shape is None or len(gamma.shape) != 1:
        return None
    mul = producer_of(x, "Mul")
    if mul is not None and only_reader(x) is norm:
        left, right = inputs_of(mul, 2)
        for value, silu in ((left, right), (right, left)):
            gate = match_silu(silu)
            if gate is not None and _same_shape(value, gate):
                return GATE_THEN_NORM, value, gate, norm
    following = only_reader(norm.outputs[0])
    if following is None or following.op_type != "Mul":
        return None
    gate = match_silu(other_factor(following.outputs[0], norm.outputs[0]))
    return (NORM_THEN_GATE, x, gate, following) if gate is not None and _same_shape(x, gate) else None


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether neither is broadcast; two symbolic sizes are the same batch or length under different names."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return all(p == q or not (isinstance(p, int) or isinstance(q, int)) for p, q in zip(a.shape, b.shape, strict=True))
