"""Experts as QMoE, run by ONNX Runtime's CPU kernel, against numpy.

The CPU kernel quantizes the activations of 8-bit weights to int8, which the one for CUDA does not.
"""

import numpy as np
import pytest

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.export.passes.ort.qmoe import LowerToQMoE
from edgekiln.export.passes.ort.weight_only import MakeWeightOnly
from edgekiln.export.step_weights import step_weight_bytes
from support.expert_blocks import CHOSEN, EXPERTS, Experts, experts, inputs
from support.expert_graphs import PER_CHANNEL, groups, indices
from support.graphs import ops, run_ort

TOLERANCE = {4: 1e-5, 8: 2e-2}


def check(made: Experts, tokens: int, tolerance: float) -> dict[str, object]:
    """Lower to QMoE, compare, and return the attributes."""
    feeds = inputs(tokens)
    assert LowerToQMoE()(made.graph).modified
    assert "QuantizedExpertMatMul" not in ops(made.graph)
    (node,) = (node for node in made.graph.graph if node.op_type == "QMoE")
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    result, expected = run_ort(made.graph, feeds)[0], made.expected(feeds)
    assert np.linalg.norm(result - expected) < tolerance * np.linalg.norm(expected)
    return attributes


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("form", ["swiglu", "clamped", "relu", "silu"])
def test_every_activation(form: str, biased: bool) -> None:
    check(experts(form, groups(4), biased=biased), 7, TOLERANCE[4])


@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize("scheme", [groups(4, 64), groups(4, symmetric=True), groups(8, 64), groups(8)], ids=str)
def test_every_format(scheme: Scheme, tokens: int) -> None:
    check(experts("swiglu", scheme), tokens, TOLERANCE[scheme.bits])


def test_one_scale_a_channel() -> None:
    made = experts("swiglu", PER_CHANNEL)
    MakeWeightOnly()(made.graph)
    assert check(made, 7, TOLERANCE[8])["block_size"] == 64  # of the first product's 64 inputs


def test_products_in_different_groups_get_the_smaller() -> None:
    made = experts("swiglu", groups(4, 32), groups(4, 64))
    assert check(made, 7, TOLERANCE[4])["block_size"] == 32


def test_an_odd_number_of_4_bit_zero_points_is_made_even() -> None:
    made = experts("swiglu", groups(4, 64), inner=192)
    assert check(made, 7, TOLERANCE[4])["block_size"] == 32


def test_a_step_reads_the_chosen_experts() -> None:
    made = experts("swiglu", groups(4))
    whole = sum(value.const_value.nbytes for name, value in made.graph.graph.initializers.items() if "." in name)
    check(made, 1, TOLERANCE[4])
    read = step_weight_bytes(made.graph, halves=False)
    # Zero points are stored one a byte before; shapes and numbers of experts count too.
    assert 0.9 * CHOSEN / EXPERTS * whole < read < 1.05 * CHOSEN / EXPERTS * whole


@pytest.mark.parametrize(
    "made",
    [
        experts("tanh", groups(4)),
        experts("swiglu", groups(4), groups(8)),
        experts("swiglu", groups(4), inner=96),
        experts("swiglu", PER_CHANNEL),
        experts("swiglu", indices("e2m1")),
    ],
    ids=["activation", "bits", "size", "per channel", "codebook"],
)
def test_what_it_does_not_compute_is_left_alone(made: Experts) -> None:
    assert not LowerToQMoE()(made.graph).modified
    assert ops(made.graph).count("QuantizedExpertMatMul") == 2


def test_a_swiglu_with_other_halves_is_left_alone() -> None:
    made = experts("swiglu", groups(4))
    split = next(node for node in made.graph.graph if node.op_type == "Split")
    gate, up = split.outputs
    uses = [(use.node, use.idx) for use in gate.uses()]
    for reader, index in uses:
        reader.replace_input_with(index, up)
    assert not LowerToQMoE()(made.graph).modified
