"""Transposes of weights are folded into the weights."""

import numpy as np
import pytest

from edgekiln.export.passes.common.fold_weight_transposes import FoldWeightTransposes
from support.graphs import graph, node, ops, run_ort, run_reference

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("attributes", [{}, {"perm": [1, 0]}])
def test_matmul_reads_the_transposed_weight(attributes: dict[str, list[int]]) -> None:
    x, weight = RNG.standard_normal((2, 3, 8), dtype=np.float32), RNG.standard_normal((5, 8), dtype=np.float32)
    nodes = [node("Transpose", ["w"], "t", **attributes), node("MatMul", ["x", "t"], "y")]
    model = graph(nodes, {"x": ["B", "S", 8]}, {"y": ["B", "S", 5]}, {"w": weight})
    (expected,) = run_reference(model, {"x": x})
    FoldWeightTransposes()(model)
    assert ops(model) == ["MatMul"]
    np.testing.assert_allclose(run_ort(model, {"x": x})[0], expected, atol=1e-5)


def test_any_permutation_and_a_weight_that_two_transposes_share() -> None:
    weight = RNG.standard_normal((4, 5, 6), dtype=np.float32)
    x = RNG.standard_normal((4, 2, 6), dtype=np.float32)
    nodes = [
        node("Transpose", ["w"], "t", perm=[0, 2, 1]),
        node("Transpose", ["w"], "u", perm=[0, 2, 1]),
        node("Transpose", ["w"], "v", perm=[2, 0, 1]),
        node("MatMul", ["x", "t"], "a"),
        node("MatMul", ["x", "u"], "b"),
        node("Add", ["a", "b"], "y"),
        node("Identity", ["v"], "z"),
    ]
    model = graph(nodes, {"x": [4, 2, 6]}, {"y": [4, 2, 5], "z": [6, 4, 5]}, {"w": weight})
    expected = run_reference(model, {"x": x})
    FoldWeightTransposes()(model)
    assert "Transpose" not in ops(model)
    assert len(model.graph.initializers) == 3, "the weight, and one transposed form for each permutation"
    for result, wanted in zip(run_ort(model, {"x": x}), expected, strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-5)


def test_a_transposed_graph_output_keeps_its_name() -> None:
    weight = RNG.standard_normal((3, 4), dtype=np.float32)
    model = graph(
        [node("Transpose", ["x"], "y"), node("Transpose", ["w"], "z")], {"x": [2, 3]}, {"z": [4, 3]}, {"w": weight}
    )
    FoldWeightTransposes()(model)
    assert ops(model) == ["Transpose"], "a Transpose of a computed value stays"
    assert model.graph.outputs[0].name == "z"
