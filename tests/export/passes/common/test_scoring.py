"""The scoring graph gives logits of all positions."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.passes.common.scoring import ScoreAllPositions
from support.graphs import graph, node, ops, run_reference

RNG = np.random.default_rng(0)
WIDTH, VOCABULARY = 8, 20
WEIGHTS = {
    "embedding": RNG.standard_normal((VOCABULARY, WIDTH), dtype=np.float32),
    "head": RNG.standard_normal((WIDTH, VOCABULARY), dtype=np.float32),
    "scale": RNG.standard_normal(WIDTH, dtype=np.float32),
    "last": np.array([-1]),
    "end": np.array([2**62]),
    "axis": np.array([1]),
}
SLICE = ["last", "end", "axis"]


def model(nodes: list[onnx.NodeProto], length: int | str = 1) -> ir.Model:
    """An embedding lookup to h, and `nodes` from h to logits."""
    return graph(
        [node("Gather", ["embedding", "input_ids"], "h"), *nodes],
        {"input_ids": ["B", "S"]},
        {"logits": ["B", length, VOCABULARY]},
        WEIGHTS,
    )


VARIANTS = {
    # The slice between norm and head, after the head, and both.
    "before head": [
        node("RMSNormalization", ["h", "scale"], "n", axis=-1),
        node("Slice", ["n", *SLICE], "kept"),
        node("MatMul", ["kept", "head"], "logits"),
    ],
    "after head": [
        node("RMSNormalization", ["h", "scale"], "n", axis=-1),
        node("MatMul", ["n", "head"], "all"),
        node("Slice", ["all", *SLICE], "logits"),
    ],
    "twice": [
        node("RMSNormalization", ["h", "scale"], "n", axis=-1),
        node("Slice", ["n", *SLICE], "kept"),
        node("MatMul", ["kept", "head"], "all"),
        node("Tanh", ["all"], "capped"),
        node("Slice", ["capped", *SLICE], "logits"),
    ],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_position_gets_logits(name: str) -> None:
    m = model(VARIANTS[name])
    ids = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    (last,) = run_reference(m, {"input_ids": ids})
    # Position i is the last one of the sequence truncated after it.
    expected = np.concatenate([run_reference(m, {"input_ids": ids[:, : i + 1]})[0] for i in range(4)], axis=1)
    ScoreAllPositions()(m)
    (scores,) = run_reference(m, {"input_ids": ids})
    assert "Slice" not in ops(m)
    assert scores.shape == (2, 4, VOCABULARY)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_allclose(scores[:, -1:], last, atol=1e-5)
    assert m.graph.outputs[0].name == "logits"
    assert m.graph.outputs[0].shape == ir.Shape(["B", "S", VOCABULARY])


def test_other_slices_stay() -> None:
    weights = {"first": np.array([0])}
    m = graph(
        [
            node("Gather", ["embedding", "input_ids"], "h"),
            node("Slice", ["h", "first", "end", "axis"], "whole"),
            node("Slice", ["whole", *SLICE], "kept"),
            node("MatMul", ["kept", "head"], "logits"),
        ],
        {"input_ids": ["B", "S"]},
        {"logits": ["B", 1, VOCABULARY]},
        WEIGHTS | weights,
    )
    ScoreAllPositions()(m)
    assert ops(m).count("Slice") == 1


def test_a_graph_without_the_slice_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no slice of the last position"):
        ScoreAllPositions()(model([node("MatMul", ["h", "head"], "logits")], length="S"))
