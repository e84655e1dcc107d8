"""RMSNormalization, alone and fused with the residual Add."""

import numpy as np
import pytest

from edgekiln.export.passes.ort.skip_rms_norm import FuseSkipRMSNorm
from support.graphs import graph, node, ops, run_ort, run_reference

RNG = np.random.default_rng(0)
WIDTH = 16
SHAPE = ["B", "S", WIDTH]
SCALE = RNG.standard_normal(WIDTH, dtype=np.float32)


def states(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape or (2, 3, WIDTH), dtype=np.float32)


@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
def test_alone(epsilon: float) -> None:
    nodes = [node("RMSNormalization", ["x", "w"], "y", axis=-1, epsilon=epsilon)]
    model = graph(nodes, {"x": SHAPE}, {"y": SHAPE}, {"w": SCALE})
    feeds = {"x": states()}
    expected = run_reference(model, feeds)
    FuseSkipRMSNorm()(model)
    assert ops(model) == ["SimplifiedLayerNormalization"]
    np.testing.assert_allclose(run_ort(model, feeds)[0], expected[0], atol=1e-5)


def test_over_heads() -> None:
    nodes = [node("RMSNormalization", ["x", "w"], "y", axis=-1)]
    shape = ["B", "S", 4, WIDTH]
    model = graph(nodes, {"x": shape}, {"y": shape}, {"w": SCALE})
    feeds = {"x": states(2, 3, 4, WIDTH)}
    expected = run_reference(model, feeds)
    FuseSkipRMSNorm()(model)
    np.testing.assert_allclose(run_ort(model, feeds)[0], expected[0], atol=1e-5)


def test_a_residual_add_is_fused() -> None:
    # The sum is read in front of the norm and after it.
    nodes = [
        node("Add", ["x", "r"], "sum"),
        node("Neg", ["sum"], "negated"),
        node("RMSNormalization", ["sum", "w"], "n", axis=-1, epsilon=1e-3),
        node("Mul", ["n", "negated"], "y"),
        node("Add", ["sum", "n"], "z"),
    ]
    model = graph(nodes, {"x": SHAPE, "r": SHAPE}, {"y": SHAPE, "z": SHAPE}, {"w": SCALE})
    feeds = {"x": states(), "r": states()}
    expected = run_reference(model, feeds)
    FuseSkipRMSNorm()(model)
    assert ops(model) == ["Add", "Mul", "Neg", "SkipSimplifiedLayerNormalization"]
    for result, wanted in zip(run_ort(model, feeds), expected, strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-5)


def test_two_norms_of_one_sum() -> None:
    nodes = [
        node("Add", ["x", "r"], "sum"),
        node("RMSNormalization", ["sum", "w"], "y", axis=-1),
        node("RMSNormalization", ["sum", "v"], "z", axis=-1),
    ]
    model = graph(nodes, {"x": SHAPE, "r": SHAPE}, {"y": SHAPE, "z": SHAPE}, {"w": SCALE, "v": SCALE * 2})
    feeds = {"x": states(), "r": states()}
    expected = run_reference(model, feeds)
    FuseSkipRMSNorm()(model)
    for result, wanted in zip(run_ort(model, feeds), expected, strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-5)


@pytest.mark.parametrize("shape", [[WIDTH], [1, 1, WIDTH], ["B", 1, WIDTH]])
def test_an_add_that_broadcasts_is_left_alone(shape: list[int | str]) -> None:
    nodes = [node("Add", ["x", "r"], "sum"), node("RMSNormalization", ["sum", "w"], "y", axis=-1)]
    model = graph(nodes, {"x": SHAPE, "r": shape}, {"y": SHAPE}, {"w": SCALE})
    feeds = {"x": states(), "r": states(*(2 if size == "B" else int(size) for size in shape))}
    expected = run_reference(model, feeds)
    FuseSkipRMSNorm()(model)
    assert ops(model) == ["Add", "SimplifiedLayerNormalization"]
    np.testing.assert_allclose(run_ort(model, feeds)[0], expected[0], atol=1e-5)


def test_a_bias_or_a_sum_that_is_an_output_is_left_alone() -> None:
    nodes = [
        node("Add", ["x", "b"], "biased"),
        node("RMSNormalization", ["biased", "w"], "y", axis=-1),
        node("Add", ["x", "y"], "sum"),
        node("RMSNormalization", ["sum", "w"], "z", axis=-1),
    ]
    model = graph(nodes, {"x": SHAPE}, {"z": SHAPE, "sum": SHAPE}, {"w": SCALE, "b": states(1, 1, WIDTH)})
    feeds = {"x": states()}
    expected = run_reference(model, feeds)
    FuseSkipRMSNorm()(model)
    assert ops(model) == ["Add", "Add", "SimplifiedLayerNormalization", "SimplifiedLayerNormalization"]
    for result, wanted in zip(run_ort(model, feeds), expected, strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-5)
