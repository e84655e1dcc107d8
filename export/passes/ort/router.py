"""Match the router of a mixture of experts; see `edgekiln.export.functions.router`."""

from typing import NamedTuple

import onnx_ir as ir

from edgekiln.export.functions.router import SIGMOID, SOFTMAX, SOFTMAX_OF_CHOSEN, Router
from edgekiln.export.passes.common.tensors import input_of, is_weight, optional_input, shape_of


class MatchedRouter(NamedTuple):
    """A router in a graph.

    Attributes:
        router: what it computes.
        x: float [T, H], what it reads.
        nodes: its nodes.
    """

    router: Router
    x: ir.Value
    nodes: list[ir.Node]


def match_router(index: ir.Value, gates: ir.Value) -> MatchedRouter | None:
    """The router that computes the experts int64[T, k] of tokens and their gates float [T, k]; None for other nodes.

    Cases, each with or without a bias of the logits, gates divided by their sum, and a factor of the gates:
        1. TopK of the Softmax or Sigmoid of logits, whose values are the gates;
        2. TopK of these plus a bias [E], with the gates gathered from them;
        3. TopK of logits, and the Softmax of its values.

    Routers that choose groups of experts first are none of these.
    """
    top = index.producer()
    chosen = _chosen(top) if top is not None and index is top.outputs[-1] else 0
    if top is None or not chosen:
        return None
    nodes = [top]
    gates, scale = _without_factor(gates, nodes)
    gates, normalized, epsilon = _without_sum(gates, nodes)
    scores = _scores(top, gates, nodes)
    linear = _linear(scores.logits) if scores is not None else None
    if scores is None or linear is None:
        return None
    nodes.append(linear)
    weight, bias = input_of(linear, 1), optional_input(linear, 2)
    router = Router(weight, chosen, scores.kind, bias, scores.choice_bias, normalized, epsilon, scale)
    experts = (shape_of(weight)[0],)
    if any(not is_weight(value) or shape_of(value) != experts for value in router.biases.values()):
        return None
    return MatchedRouter(router, input_of(linear, 0), nodes)


class _Scores(NamedTuple):
    """What the gates are made of."""

    kind: str
    logits: ir.Value
    choice_bias: ir.Value | None = None


def _chosen(top: ir.Node) -> int:
    """How many values a TopK of the largest values along the last axis chooses; 0 for other nodes."""
    if top.op_type != "TopK" or not _is_last_axis(top):
        return 0
    if "largest" in top.attributes and top.attributes["largest"].as_int() != 1:
        return 0
    count = ir.convenience.get_const_tensor(input_of(top, 1))
    return 0 if count is None else int(count.numpy().reshape(-1)[0])


def _scores(top: ir.Node, gates: ir.Value, nodes: list[ir.Node]) -> _Scores | None:
    """The scores that `top` chooses from and `gates` are."""
    values, index = top.outputs
    preferences, last = input_of(top, 0), gates.producer()
    if gates is values:
        return _of_logits(preferences, nodes)
    if last is None or "axis" not in last.attributes or not _is_last_axis(last):
        return None
    nodes.append(last)
    if last.op_type == "Softmax" and input_of(last, 0) is values:
        return _Scores(SOFTMAX_OF_CHOSEN, preferences)
    if last.op_type == "GatherElements" and input_of(last, 1) is index:
        scores = input_of(last, 0)
        found = _of_logits(scores, nodes)
        if scores is preferences or found is None:
            return found
        bias = _bias_of(preferences, scores, nodes)
        return None if bias is None else found._replace(choice_bias=bias)
    return None


def _of_logits(scores: ir.Value, nodes: list[ir.Node]) -> _Scores | None:
    """Scores that are the Softmax or the Sigmoid of logits."""
    node = scores.producer()
    if node is None or not (node.op_type == "Sigmoid" or (node.op_type == "Softmax" and _is_last_axis(node))):
        return None
    nodes.append(node)
    return _Scores(SIGMOID if node.op_type == "Sigmoid" else SOFTMAX, input_of(node, 0))


def _is_last_axis(node: ir.Node) -> bool:
    """Whether a Softmax or TopK works along the last axis of [T, E]."""
    return "axis" not in node.attributes or node.attributes["axis"].as_int() in (-1, 1)


def _scalar(value: ir.Value) -> float | None:
    """The value of a constant with one element, of any rank up to that of [T, k]; None for others."""
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size != 1 or len(tensor.shape) > 2:
        return None
    return float(tensor.numpy().reshape(-1)[0])


def _with_constant(node: ir.Node) -> tuple[ir.Value, float] | None:
    """The two inputs of a node of which one is a scalar; None for other nodes."""
    left, right = input_of(node, 0), input_of(node, 1)
    for value, other in ((left, right), (right, left)):
        if (scalar := _scalar(other)) is not None:
            return value, scalar
    return None


def _without_factor(gates: ir.Value, nodes: list[ir.Node]) -> tuple[ir.Value, float]:
    """What is multiplied, and the factor, 1 for none."""
    node = gates.producer()
    found = _with_constant(node) if node is not None and node.op_type == "Mul" else None
    if node is None or found is None:
        return gates, 1.0
    nodes.append(node)
    return found


def _without_sum(gates: ir.Value, nodes: list[ir.Node]) -> tuple[ir.Value, bool, float]:
    """What is divided by its sum over the last axis, whether it is, and what is added to the sum."""
    divide = gates.producer()
    if divide is None or divide.op_type != "Div":
        return gates, False, 0.0
    divided, total = input_of(divide, 0), input_of(divide, 1).producer()
    found, epsilon = [divide], 0.0
    if total is not None and total.op_type == "Add":
        added = _with_constant(total)
        if added is None:
            return gates, False, 0.0
        found.append(total)
        total, epsilon = added[0].producer(), added[1]
    if total is None or total.op_type != "ReduceSum" or input_of(total, 0) is not divided:
        return gates, False, 0.0
    axes = optional_input(total, 1)
    tensor = ir.convenience.get_const_tensor(axes) if axes is not None else None
    keeps = "keepdims" not in total.attributes or total.attributes["keepdims"].as_int() == 1
    if tensor is None or tensor.numpy().tolist() not in ([-1], [1]) or not keeps:
        return gates, False, 0.0
    nodes += [*found, total]
    return divided, True, epsilon


def _bias_of(value: ir.Value, scores: ir.Value, nodes: list[ir.Node]) -> ir.Value | None:
    """What is added to `scores` in `value`; None if that is no Add of them."""
    node = value.producer()
    if node is None or node.op_type != "Add" or scores not in node.inputs:
        return None
    nodes.append(node)
    return input_of(node, 1) if node.inputs[0] is scores else input_of(node, 0)


def _linear(logits: ir.Value) -> ir.Node | None:
    """The Gemm of a weight [E, H] that computes the logits."""
    node = logits.producer()
    if node is None or node.op_type != "Gemm" or not is_weight(input_of(node, 1)):
        return None
    expected = {"transA": 0, "transB": 1, "alpha": 1.0, "beta": 1.0}
    defaults = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}
    found = {name: node.attributes[name].value if name in node.attributes else defaults[name] for name in expected}
    return node if found == expected else None
