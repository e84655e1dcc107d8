"""The input logits_to_keep sets the number of last positions that get logits."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekiln.export.lower.ort_cpu import LOWER_QUANTIZED_OPS
from edgekiln.export.passes.common.logits_to_keep import LOGITS_TO_KEEP, AddLogitsToKeep, logits_to_keep_input
from edgekiln.export.passes.common.scoring import ScoreAllPositions
from support.graphs import graph, node, run_ort

RNG = np.random.default_rng(0)
WIDTH, VOCABULARY = 32, 20
WEIGHTS = {
    "embedding": RNG.standard_normal((VOCABULARY, WIDTH), dtype=np.float32),
    "head": RNG.integers(0, 256, (VOCABULARY, WIDTH // 2), dtype=np.uint8),
    "scales": RNG.uniform(0.01, 0.1, (VOCABULARY, 1)).astype(np.float32),
    "float head": RNG.standard_normal((WIDTH, VOCABULARY), dtype=np.float32),
    "last": np.array([-1]),
    "end": np.array([2**62]),
    "axis": np.array([1]),
    "axis 1": np.array(1),
    "bias": RNG.standard_normal(WIDTH, dtype=np.float32),
}
SLICE = ["last", "end", "axis"]
IDS = np.array([[1, 2, 3, 4, 5], [5, 6, 7, 8, 9]])


def head(x: str, y: str) -> onnx.NodeProto:
    return node("QuantizedMatMul", [x, "head", "scales"], y, bits=4, group_size=WIDTH, activation="none")


VARIANTS = {
    "before head": [node("Slice", ["h", *SLICE], "kept"), head("kept", "logits")],
    "after head": [head("h", "all"), node("Slice", ["all", *SLICE], "logits")],
    "twice": [
        node("Slice", ["h", *SLICE], "kept"),
        head("kept", "all"),
        node("Tanh", ["all"], "capped"),
        node("Slice", ["capped", *SLICE], "logits"),
    ],
    "after a layer": [
        node("Add", ["h", "bias"], "a"),
        node("CumSum", ["a", "axis 1"], "mixed"),
        node("Sigmoid", ["mixed"], "gate"),
        node("Mul", ["mixed", "gate"], "gated"),
        node("Add", ["gated", "a"], "sum"),
        node("Slice", ["sum", *SLICE], "kept"),
        head("kept", "logits"),
    ],
}


def model(nodes: list[onnx.NodeProto]) -> ir.Model:
    m = graph(
        [node("Gather", ["embedding", "input_ids"], "h"), *nodes],
        {"input_ids": ["B", "S"]},
        {"logits": ["B", 1, VOCABULARY]},
        WEIGHTS,
        {"all": ["B", 1 if nodes[0].op_type == "Slice" else "S", VOCABULARY]}
        | {name: ["B", "S", WIDTH] for name in ("h", "a", "mixed", "gate", "gated", "sum")},
    )
    LOWER_QUANTIZED_OPS(m)
    return m


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_the_last_positions(name: str) -> None:
    scored = model(VARIANTS[name])
    ScoreAllPositions()(scored)
    (every,) = run_ort(scored, {"input_ids": IDS})
    m = model(VARIANTS[name])
    AddLogitsToKeep()(m)
    assert logits_to_keep_input(m) == LOGITS_TO_KEEP
    assert m.graph.outputs[0].shape == ir.Shape(["B", "K", VOCABULARY])
    for count in (1, 2, 5):
        (logits,) = run_ort(m, {"input_ids": IDS, LOGITS_TO_KEEP: np.array([count])})
        np.testing.assert_allclose(logits, every[:, -count:], atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_scoring_graph_lacks_the_input(name: str) -> None:
    m = model(VARIANTS[name])
    AddLogitsToKeep()(m)
    ScoreAllPositions()(m)
    assert logits_to_keep_input(m) is None
    assert [value.name for value in m.graph.inputs] == ["input_ids"]
    (logits,) = run_ort(m, {"input_ids": IDS})
    assert logits.shape == (*IDS.shape, VOCABULARY)


def test_the_slice_moves_as_far_up_as_it_can() -> None:
    m = model(VARIANTS["after a layer"])
    AddLogitsToKeep()(m)
    kept = [each.inputs[0] for each in m.graph if each.op_type == "Slice"]
    assert {value.name for value in kept if value is not None} == {"mixed", "a"}


@pytest.mark.parametrize(
    "nodes",
    [[node("Slice", ["h", *SLICE], "kept"), node("MatMul", ["kept", "float head"], "logits")], [head("h", "logits")]],
    ids=["a MatMul of ONNX Runtime", "no slice"],
)
def test_graphs_that_are_left_alone(nodes: list[onnx.NodeProto]) -> None:
    m = model(nodes)
    before = [str(each) for each in m.graph]
    AddLogitsToKeep()(m)
    assert logits_to_keep_input(m) is None
    assert [str(each) for each in m.graph] == before
