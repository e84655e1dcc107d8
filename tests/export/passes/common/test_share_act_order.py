"""Layers with the same act-order share one reordered input."""

import numpy as np
import onnx_ir as ir

from edgekiln.export.passes.common.share_act_order import ShareActOrder
from support.graphs import graph, node, ops, run_reference

RNG = np.random.default_rng(0)


def reordered(orders: dict[str, np.ndarray], **axes: int) -> ir.Model:
    """x [4, 4] reordered by each of `orders`, each its own output."""
    nodes = [node("Gather", ["x", f"{name}.order"], name, axis=axes.get(name, -1)) for name in orders]
    weights = {f"{name}.order": order for name, order in orders.items()}
    return graph(nodes, {"x": [4, 4]}, {name: [4, 4] for name in orders}, weights)


def check(model: ir.Model, gathers: int) -> None:
    x = RNG.standard_normal((4, 4), dtype=np.float32)
    expected = run_reference(model, {"x": x})
    ShareActOrder()(model)
    assert ops(model).count("Gather") == gathers
    for result, truth in zip(run_reference(model, {"x": x}), expected, strict=True):
        np.testing.assert_array_equal(result, truth)


ORDER = np.array([2, 0, 3, 1])


def with_users(model: ir.Model) -> ir.Model:
    """Pass each output through Neg, so that the reordered values are no graph outputs."""
    for index, value in enumerate(list(model.graph.outputs)):
        negated = ir.Node("", "Neg", [value])
        negated.outputs[0].name = f"{value.name}.negated"
        negated.outputs[0].shape, negated.outputs[0].type = value.shape, value.type
        model.graph.append(negated)
        model.graph.outputs[index] = negated.outputs[0]
    return model


def test_equal_orders_are_merged() -> None:
    check(with_users(reordered({"a": ORDER, "b": ORDER.copy(), "c": ORDER[::-1].copy()})), gathers=2)


def test_other_axes_are_not_merged() -> None:
    check(with_users(reordered({"a": ORDER, "b": ORDER}, b=0)), gathers=2)
