"""Fuse RMSNormalization and the SiLU gate before or after it into functions of edgekiln.ort."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, common

from edgekiln.export.functions.define import DOMAIN, add_function
from edgekiln.export.functions.gated_rms_norm import GATE_THEN_NORM, NORM_THEN_GATE, gated_rms_norm_function
from edgekiln.export.passes.common.tensors import (
    attribute,
    inputs_of,
    is_weight,
    make,
    name_of,
    only_reader,
    replace_node,
    shape_of,
)
from edgekiln.export.passes.ort.match_recurrence import match_inverse_rms, match_silu, other_factor, producer_of


class FuseGatedRMSNorm(InPlacePass):
    """Fuse the norms of layers with states.

    Cases:
        1. rms_norm(x) · silu(gate): RMSNormThenGate (Gated DeltaNet);
        2. rms_norm(x · silu(gate)): GateThenRMSNorm (Mamba-2), also with the norm over an axis of groups of which
           there is one, which Simplify does not fuse.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in list(model.graph):
            if node.graph is None:
                continue  # replaced with one before it
            match = _match(node) if node.op_type == "RMSNormalization" and node.domain == "" else _match_one_group(node)
            if match:
                name, x, gate, gamma, epsilon, last = match
                add_function(model, gated_rms_norm_function(name))
                new = make(name, [x, gate, gamma], f"{name_of(last)}.gated", domain=DOMAIN, epsilon=epsilon)
                replace_node(last, [new], [new.outputs[0]])
                modified = True
        common.RemoveUnusedNodesPass()(model)
        return PassResult(model, modified)


_Match = tuple[str, ir.Value, ir.Value, ir.Value, float, ir.Node]  # function, x, gate, gamma, epsilon, the last node


def _match(norm: ir.Node) -> _Match | None:
    x, gamma = inputs_of(norm, 2)
    if gamma.shape is None or len(gamma.shape) != 1:
        return None
    epsilon = float(attribute(norm, "epsilon")) if "epsilon" in norm.attributes else 1e-5
    mul = producer_of(x, "Mul")
    if mul is not None and only_reader(x) is norm:
        left, right = inputs_of(mul, 2)
        for value, silu in ((left, right), (right, left)):
            gate = match_silu(silu)
            if gate is not None and _same_shape(value, gate):
                return GATE_THEN_NORM, value, gate, gamma, epsilon, norm
    following = only_reader(norm.outputs[0])
    if following is None or following.op_type != "Mul":
        return None
    gate = match_silu(other_factor(following.outputs[0], norm.outputs[0]))
    if gate is None or not _same_shape(x, gate):
        return None
    return NORM_THEN_GATE, x, gate, gamma, epsilon, following


def _match_one_group(last: ir.Node) -> _Match | None:
    """gamma · rms_norm(x · silu(gate)) with the norm between two Reshapes, [B, S, N] to [B, S, 1, N] and back."""
    if last.op_type != "Mul" or last.domain:
        return None
    left, right = inputs_of(last, 2)
    for gamma, value in ((left, right), (right, left)):
        back = producer_of(value, "Reshape")
        normed = back.inputs[0] if back is not None else None
        mul = producer_of(normed, "Mul")
        if mul is None or normed is None or normed.shape is None or not is_weight(gamma):
            continue
        if len(normed.shape) != 4 or tuple(normed.shape[2:]) != (1, *shape_of(gamma)):
            continue
        for group in inputs_of(mul, 2):
            epsilon = match_inverse_rms(other_factor(normed, group), group)
            forth = producer_of(group, "Reshape")
            gated = producer_of(forth.inputs[0], "Mul") if forth is not None else None
            if epsilon is None or gated is None:
                continue
            for x, silu in (inputs_of(gated, 2), reversed(inputs_of(gated, 2))):
                gate = match_silu(silu)
                if gate is not None and _same_shape(x, gate) and _same_shape(x, value):
                    return GATE_THEN_NORM, x, gate, gamma, epsilon, last
    return None


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether neither is broadcast; two symbolic sizes are the same batch or length under different names."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return all(p == q or not (isinstance(p, int) or isinstance(q, int)) for p, q in zip(a.shape, b.shape, strict=True))
