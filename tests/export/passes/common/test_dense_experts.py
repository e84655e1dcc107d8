"""Experts as products with the weights of all, against numpy."""

from collections import Counter

import numpy as np
import pytest

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.export.passes.common.dense_experts import MakeExpertsDense
from edgekiln.export.passes.common.expert_blocks import expert_blocks
from support.expert_blocks import EXPERTS, FORMS, experts, inputs
from support.expert_graphs import PER_CHANNEL, groups, indices
from support.graphs import ops, run_reference


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_activation(form: str, biased: bool) -> None:
    made, feeds = experts(form, groups(4), biased=biased), inputs(7)
    assert MakeExpertsDense()(made.graph).modified
    assert Counter(ops(made.graph))["QuantizedMatMul"] == 2
    assert "QuantizedExpertMatMul" not in ops(made.graph)
    np.testing.assert_allclose(run_reference(made.graph, feeds)[0], made.expected(feeds), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "schemes",
    [
        (groups(4), groups(8)),
        (groups(8, 64), groups(4, 32, symmetric=True)),
        (indices("e2m1"), indices("iq4_nl")),
    ],
    ids=str,
)
def test_products_of_different_formats(schemes: tuple[Scheme, Scheme]) -> None:
    made, feeds = experts("swiglu", *schemes), inputs(2)
    assert MakeExpertsDense()(made.graph).modified
    np.testing.assert_allclose(run_reference(made.graph, feeds)[0], made.expected(feeds), rtol=1e-3, atol=1e-3)


def test_one_scale_a_channel_is_left_alone() -> None:
    made = experts("swiglu", PER_CHANNEL)
    assert not MakeExpertsDense()(made.graph).modified


def test_a_block_has_the_experts_of_its_layer() -> None:
    (block,) = expert_blocks(experts("clamped", groups(4), biased=True).graph)
    assert block.experts == EXPERTS
    assert [node.op_type for node in block.tail] == ["QuantizedExpertMatMul", "Add", "Mul", "ReduceSum"]


@pytest.mark.parametrize("op", ["Softmax", "Reshape"])
def test_an_op_that_may_mix_experts_is_no_block(op: str) -> None:
    made = experts("tanh", groups(4))
    node = next(node for node in made.graph.graph if node.op_type == "Tanh")
    node.op_type = op
    assert not list(expert_blocks(made.graph))


def test_outputs_of_experts_that_are_read_elsewhere_are_no_block() -> None:
    made = experts("tanh", groups(4))
    node = next(node for node in made.graph.graph if node.op_type == "Tanh")
    made.graph.graph.outputs.append(node.outputs[0])
    assert not list(expert_blocks(made.graph))
