"""Rotary caches hold the angles of all positions, computed by the graph's own nodes."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekiln.export.passes.common.tensors import values_of
from edgekiln.export.passes.ort.rotary_cache import RotaryCaches
from support.graphs import graph, node, ops

HALF = 4
LENGTH = 50


def model(*, extra_input: bool = False, by_layer: bool = False) -> ir.Model:
    """cos and sin of position_ids times frequencies, and a second pair whose frequencies are half or the same."""
    weights = {
        "f": (0.5 ** np.arange(HALF)).astype(np.float32)[None, None],
        "g": ((0.5 if by_layer else 1.0) * 0.5 ** np.arange(HALF)).astype(np.float32)[None, None],
        "axes": np.array([-1]),
    }
    nodes = [
        node("Cast", ["position_ids"], "positions", to=int(onnx.TensorProto.FLOAT)),
        node("Unsqueeze", ["positions", "axes"], "column"),
        node("Mul", ["column", "f"], "first"),
        node("Mul", ["column", "g"], "second"),
        node("Cos", ["first"], "cos"),
        node("Sin", ["first"], "sin"),
        node("Cos", ["second"], "cos2"),
        node("Sin", ["second"], "sin2"),
        *([node("Mul", ["cos", "x"], "cos3")] if extra_input else []),
    ]
    inputs: dict[str, list[int | str]] = {"input_ids": ["B", "S"], "position_ids": ["B", "S"]}
    if extra_input:
        inputs["x"] = [1]
    names = ["cos", "sin", "cos2", "sin2", *(["cos3"] if extra_input else [])]
    return graph(nodes, inputs, {name: ["B", "S", HALF] for name in names}, weights)


def value(graph_model: ir.Model, name: str) -> ir.Value:
    return next(v for v in graph_model.graph.outputs if v.name == name)


def test_angles_of_all_positions() -> None:
    m = model()
    before = ops(m)
    cache = RotaryCaches(m, LENGTH, 1 << 20).of(value(m, "cos"), value(m, "sin"), 2 * HALF)
    assert cache is not None
    angles = np.arange(LENGTH)[:, None] * 0.5 ** np.arange(HALF)
    np.testing.assert_allclose(values_of(cache.cos), np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(values_of(cache.sin), np.sin(angles), atol=1e-5)
    assert values_of(cache.cos).dtype == np.float32
    assert cache.cos.is_initializer()
    assert ops(m) == before, "the graph itself stays"


@pytest.mark.parametrize("by_layer", [False, True])
def test_equal_angles_are_shared_and_different_ones_are_not(by_layer: bool) -> None:
    m = model(by_layer=by_layer)
    caches = RotaryCaches(m, LENGTH, 1 << 20)
    first, second = (caches.of(value(m, f"cos{n}"), value(m, f"sin{n}"), 2 * HALF) for n in ("", "2"))
    assert (first == second) == (not by_layer)
    stored = [name for name in m.graph.initializers if name.startswith("rotary_cache")]
    assert len(stored) == (4 if by_layer else 2)


def test_angles_that_depend_on_another_input_have_no_cache() -> None:
    m = model(extra_input=True)
    caches = RotaryCaches(m, LENGTH, 1 << 20)
    assert caches.of(value(m, "cos3"), value(m, "sin"), 2 * HALF) is None
    assert caches.of(value(m, "cos"), value(m, "sin"), 2 * HALF) is not None


def test_angles_of_another_rank_have_no_cache() -> None:
    m = graph(
        [node("Cast", ["position_ids"], "cos", to=int(onnx.TensorProto.FLOAT)), node("Sin", ["cos"], "sin")],
        {"position_ids": ["B", "S"]},
        {"cos": ["B", "S"], "sin": ["B", "S"]},
        {},
    )
    assert RotaryCaches(m, LENGTH, 1 << 20).of(value(m, "cos"), value(m, "sin"), 2 * HALF) is None
