"""The activation of gate and up becomes SwiGLU where no other node reads its parts."""

from typing import get_args

import numpy as np
import pytest

from edgekiln.export.passes.ort.swiglu import FuseSwiGLU
from edgekiln.runtimes.base import KernelsChoice
from support.graphs import graph, node, ops, session

WIDTH = 24
NODES = [
    node("Split", ["x", "sizes"], ["gate", "up"], axis=-1),
    node("Sigmoid", ["gate"], "sigmoid"),
    node("Mul", ["gate", "sigmoid"], "silu"),
    node("Mul", ["up", "silu"], "y"),
]


def lowered(nodes: list, sizes: tuple[int, int] = (WIDTH, WIDTH), **outputs: list):
    inside = {"gate": ["B", "S", sizes[0]], "up": ["B", "S", sizes[1]]}
    outputs = outputs or {"y": ["B", "S", WIDTH]}
    return graph(nodes, {"x": ["B", "S", sum(sizes)]}, outputs, {"sizes": np.array(sizes)}, inside)


@pytest.mark.parametrize("swapped", [False, True])
def test_one_function_with_the_same_values(swapped: bool) -> None:
    nodes = list(NODES)
    if swapped:
        nodes[2:] = [node("Mul", ["sigmoid", "gate"], "silu"), node("Mul", ["silu", "up"], "y")]
    model = lowered(nodes)
    FuseSwiGLU()(model)
    x = 3 * np.random.default_rng(0).standard_normal((2, 3, 2 * WIDTH), dtype=np.float32)
    gate, up = x[..., :WIDTH].astype(np.float64), x[..., WIDTH:]
    expected = gate / (1 + np.exp(-gate)) * up
    for kernels in get_args(KernelsChoice):
        result = session(model, kernels).run(None, {"x": x})[0]
        assert ops(model) == ["SwiGLU"]
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("read", ["gate", "up", "silu", "sigmoid"])
def test_parts_with_other_readers_are_left_alone(read: str) -> None:
    model = lowered([*NODES, node("Neg", [read], "other")], y=["B", "S", WIDTH], other=["B", "S", WIDTH])
    before = ops(model)
    FuseSwiGLU()(model)
    assert ops(model) == before


def test_another_activation_is_left_alone() -> None:
    nodes = [NODES[0], node("Tanh", ["gate"], "sigmoid"), *NODES[2:]]
    model = lowered(nodes)
    before = ops(model)
    FuseSwiGLU()(model)
    assert ops(model) == before
