"""Experts with int8 weights and activations as standard ops, against numpy."""

import numpy as np
import pytest
from onnx_ir.passes import Sequential

from edgekiln.export import canonical
from edgekiln.export.op_reference import quantize_tokens
from edgekiln.export.passes.onnx.int8_experts import LowerInt8ExpertsToQDQ
from edgekiln.export.passes.onnx.per_token_int8 import LowerPerTokenInt8ToQDQ
from support.expert_blocks import experts, inputs
from support.expert_graphs import PER_CHANNEL, groups
from support.graphs import ops, standard_session


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("form", ["swiglu", "clamped", "relu"])
def test_weights_stay_int8(form: str, biased: bool) -> None:
    made, feeds = experts(form, PER_CHANNEL, biased=biased), inputs(7)
    Sequential(LowerInt8ExpertsToQDQ(), LowerPerTokenInt8ToQDQ())(made.graph)
    weights = [node.inputs[0] for node in made.graph.graph if node.op_type == "DequantizeLinear"]
    assert sum(value.dtype.name == "INT8" and value.is_initializer() for value in weights if value and value.dtype) == 2
    assert all(not node.domain for node in made.graph.graph)
    made.graph.opset_imports.pop(canonical.DOMAIN, None)
    result = standard_session(made.graph).run(None, feeds)[0]
    expected = made.expected(feeds, lambda x: quantize_tokens(x.astype(np.float32)))
    # A result between two codes may be rounded to either.
    assert np.linalg.norm(result - expected) < 2e-3 * np.linalg.norm(expected)


def test_groups_are_left_alone() -> None:
    made = experts("swiglu", groups(8))
    assert not LowerInt8ExpertsToQDQ()(made.graph).modified
    assert ops(made.graph).count("QuantizedExpertMatMul") == 2
