"""Products of tokens with the weights of their experts as standard ops, against numpy."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import Sequential

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.export import canonical
from edgekiln.export.passes.onnx.expert_matmul import LowerExpertMatMulToDense
from support.expert_graphs import (
    CHOSEN,
    PER_CHANNEL,
    expected,
    feeds,
    float_graph,
    groups,
    indices,
    quantized_graph,
    weights,
)
from support.graphs import standard_session


def run(model: ir.Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    Sequential(LowerExpertMatMulToDense())(model)
    assert all(node.domain == "" for node in model.graph)
    model.opset_imports.pop(canonical.DOMAIN, None)
    (result,) = standard_session(model).run(None, inputs)
    return result


@pytest.mark.parametrize("slots", [1, CHOSEN])
@pytest.mark.parametrize("tokens", [1, 20])
def test_float(tokens: int, slots: int) -> None:
    rng = np.random.default_rng(tokens)
    weight, inputs = weights(rng), feeds(rng, tokens, slots)
    result = run(float_graph(weight, slots), inputs)
    np.testing.assert_allclose(result, expected(inputs, weight), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "scheme", [groups(4), groups(4, symmetric=True), groups(8), PER_CHANNEL, indices("e2m1")], ids=str
)
@pytest.mark.parametrize("slots", [1, CHOSEN])
def test_quantized_weights_keep_their_values(scheme: Scheme, slots: int) -> None:
    rng = np.random.default_rng(slots)
    inputs = feeds(rng, 6, slots)
    model, weight = quantized_graph(weights(rng), scheme, slots)
    np.testing.assert_allclose(run(model, inputs), expected(inputs, weight), rtol=1e-4, atol=2e-3)
