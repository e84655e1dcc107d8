"""Recognize the activation between the products of experts among those that com.microsoft::QMoE computes."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgekiln.export.passes.common.tensors import attribute, input_of, is_weight, optional_input, size_of, values_of

_LAST_AXES = (2, -1)


@dataclass(frozen=True)
class ExpertActivation:
    """An activation that QMoE computes.

    Attributes:
        source: what it reads, [T, k, N].
        kind: attribute `activation_type`.
        interleaved: whether the columns of gate and up take turns; in halves otherwise. Only for swiglu.
        alpha, beta, limit: min(gate, limit) · sigmoid(alpha · min(gate, limit)) · (clip(up, ±limit) + beta); a limit of
            None is none. Only for swiglu.
    """

    source: ir.Value
    kind: str
    interleaved: bool = False
    alpha: float = 1.0
    beta: float = 0.0
    limit: float | None = None


def match_activation(value: ir.Value) -> ExpertActivation | None:
    """The activation that computes `value`, without other ops before it; None if QMoE has none like it."""
    return _relu(value) or _silu(value) or next(_swiglus(value), None)


def _relu(value: ir.Value) -> ExpertActivation | None:
    node = _producer(value, "Relu")
    return ExpertActivation(input_of(node, 0), "relu") if node else None


def _silu(value: ir.Value) -> ExpertActivation | None:
    found = _gated(value)
    if found is None or found[1] != 1.0 or _half(found[0]) is not None:
        return None
    return ExpertActivation(found[0], "silu")


def _swiglus(value: ir.Value) -> Iterator[ExpertActivation]:
    """SwiGLU, if `value` is one: either factor may be the gate."""
    for first, second in _factors(value):
        found = _gated(first)
        if found is None:
            continue
        up, beta = _plus(second)
        gate, gate_limit = _clipped(found[0], two_sided=False)
        up, up_limit = _clipped(up, two_sided=True)
        gate_half, up_half = _half(gate), _half(up)
        if gate_limit != up_limit or gate_half is None or up_half is None:
            continue
        source, gate_number, interleaved = gate_half
        up_source, up_number, up_interleaved = up_half
        if (gate_number, up_number) == (0, 1) and source is up_source and interleaved == up_interleaved:
            yield ExpertActivation(source, "swiglu", interleaved, found[1], beta, gate_limit)


def _gated(value: ir.Value) -> tuple[ir.Value, float] | None:
    """x and alpha, if `value` is x · sigmoid(alpha · x)."""
    for x, other in _factors(value):
        sigmoid = _producer(other, "Sigmoid")
        if sigmoid is None:
            continue
        inside = input_of(sigmoid, 0)
        if inside is x:
            return x, 1.0
        for scaled, factor in _factors(inside):
            alpha = _number(factor)
            if scaled is x and alpha is not None:
                return x, alpha
    return None


def _factors(value: ir.Value) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The two factors of a Mul, in both orders."""
    node = _producer(value, "Mul")
    if node:
        first, second = input_of(node, 0), input_of(node, 1)
        yield first, second
        yield second, first


def _plus(value: ir.Value) -> tuple[ir.Value, float]:
    """x and a number, if `value` is their sum; otherwise `value` and 0."""
    node = _producer(value, "Add")
    if node:
        first, second = input_of(node, 0), input_of(node, 1)
        for x, number in ((first, _number(second)), (second, _number(first))):
            if number is not None:
                return x, number
    return value, 0.0


def _clipped(value: ir.Value, two_sided: bool) -> tuple[ir.Value, float | None]:
    """x and the limit of a Clip to at most `limit`, and to at least -limit if `two_sided`; otherwise `value`, None."""
    node = _producer(value, "Clip")
    if node is None:
        return value, None
    low, high = (_number(each) if (each := optional_input(node, i)) is not None else None for i in (1, 2))
    wanted = -high if two_sided and high is not None else None
    return (input_of(node, 0), high) if high is not None and low == wanted else (value, None)


def _half(value: ir.Value) -> tuple[ir.Value, int, bool] | None:
    """What `value` is a half of, which of the two, and whether of every second column."""
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Split" and len(node.outputs) == 2 and attribute(node, "axis") in _LAST_AXES:
        same = size_of(node.outputs[0], -1) == size_of(node.outputs[1], -1)
        return (input_of(node, 0), value.index() or 0, False) if same else None
    if node.op_type != "Slice" or len(node.inputs) != 5 or not all(is_weight(each) for each in node.inputs[1:]):
        return None
    start, stop, axis, step = (values_of(input_of(node, i)).tolist() for i in (1, 2, 3, 4))
    source = input_of(node, 0)
    if axis[0] not in _LAST_AXES or step != [2] or start not in ([0], [1]) or stop[0] < size_of(source, -1):
        return None
    return source, start[0], True


def _producer(value: ir.Value, op: str) -> ir.Node | None:
    node = value.producer()
    return node if node is not None and (node.domain, node.op_type) == ("", op) else None


def _number(value: ir.Value | None) -> float | None:
    """The value of a constant scalar."""
    if not is_weight(value) or value is None or values_of(value).size != 1:
        return None
    return float(values_of(value).item())
