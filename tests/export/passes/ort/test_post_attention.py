"""The block between two attentions becomes one PostAttention call with the same results."""

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.export.lower.ort_cpu import LOWER_QUANTIZED_OPS
from edgekiln.export.passes.ort.post_attention import FusePostAttention
from edgekiln.export.passes.ort.skip_rms_norm import FuseSkipRMSNorm
from edgekiln.export.passes.ort.swiglu import FuseSwiGLU
from edgekiln.runtimes.base import KernelsChoice
from support.graphs import graph, node, ops, quantized, session

RNG = np.random.default_rng(0)
ATTENDED = 96


class Widths(NamedTuple):
    hidden: int
    intermediate: int
    projected: int

    def weights(self) -> dict[str, tuple[int, int]]:
        return {
            "output": (self.hidden, ATTENDED),
            "gate_up": (2 * self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
            "next": (self.projected, self.hidden),
        }


USUAL = Widths(64, 160, 80)
# The last two have intermediate values that do not fit beside gate and up.
WIDTHS = [USUAL, Widths(96, 64, 160), Widths(160, 32, 64)]
GEMMS = tuple(USUAL.weights())
INT8 = Scheme(bits=8, group_size=None, symmetric=True, activation="int8-per-token")
SCHEMES = {
    "PerTokenInt8PostAttention": INT8,
    "ZeroPointPostAttention": Scheme(bits=4, group_size=32, symmetric=False, activation="none"),
    "SymmetricPostAttention": Scheme(bits=8, group_size=16, symmetric=True, activation="none"),
    "GroupBiasPostAttention": Scheme(bits=4, group_size=32, symmetric=True, activation="none"),
    "CodebookPostAttention": Scheme(bits=4, group_size=32, symmetric=True, activation="none", codebook="iq4_nl"),
}


def lowered(schemes: dict[str, Scheme], group_bias: bool = False, read: str = "", widths: Widths = USUAL) -> ir.Model:
    """The nodes from an attention's output to the next attention's input, lowered to ops of ONNX Runtime."""
    sizes = widths.weights()
    weights: dict[str, np.ndarray] = {}
    nodes = []

    def multiply(x: str, name: str, to: str) -> None:
        scheme = schemes[name]
        tensors, _ = quantized(name, RNG.standard_normal(sizes[name], dtype=np.float32) / 8, scheme)
        weights.update(tensors)
        inputs = [x, *tensors]
        if group_bias:
            weights[f"{name}.group_bias"] = RNG.standard_normal(tensors[f"{name}.scales"].shape, dtype=np.float32) / 20
            inputs += ["", f"{name}.group_bias"]
        numbers = {"bits": scheme.bits, "group_size": scheme.group_size or 0, "activation": scheme.activation}
        numbers["codebook"] = scheme.codebook or ""
        nodes.append(node("QuantizedMatMul", inputs, to, **numbers))

    for name in ("gamma", "next_gamma"):
        weights[name] = 1 + RNG.standard_normal(widths.hidden, dtype=np.float32) / 10
    weights["halves"] = np.array([widths.intermediate] * 2)
    multiply("attended", "output", "o")
    nodes += [node("Add", ["residual", "o"], "after"), node("RMSNormalization", ["after", "gamma"], "n", axis=-1)]
    multiply("n", "gate_up", "gu")
    nodes += [
        node("Split", ["gu", "halves"], ["gate", "up"], axis=-1),
        node("Sigmoid", ["gate"], "sigmoid"),
        node("Mul", ["gate", "sigmoid"], "silu"),
        node("Mul", ["silu", "up"], "gated"),
    ]
    multiply("gated", "down", "d")
    nodes += [
        node("Add", ["after", "d"], "sum"),
        node("RMSNormalization", ["sum", "next_gamma"], "m", axis=-1, epsilon=1e-3),
    ]
    multiply("m", "next", "projected")
    nodes += [node("Neg", ["sum"], "residual_out"), node("Abs", ["projected"], "projected_out")]
    shape = ["B", "S", widths.hidden]
    outputs = {"projected_out": ["B", "S", widths.projected], "residual_out": shape}
    if read:
        nodes.append(node("Neg", [read], "other"))
        outputs["other"] = ["B", "S", "W"]
    hidden = dict.fromkeys(["o", "after", "n", "d", "sum", "m"], shape)
    width = ["B", "S", widths.intermediate]
    inner = dict.fromkeys(["gate", "up", "sigmoid", "silu", "gated"], width)
    inside = hidden | inner | {"projected": ["B", "S", widths.projected]} | {"gu": ["B", "S", 2 * widths.intermediate]}
    model = graph(nodes, {"attended": ["B", "S", ATTENDED], "residual": shape}, outputs, weights, inside)
    FuseSkipRMSNorm()(model)
    LOWER_QUANTIZED_OPS(model)
    FuseSwiGLU()(model)
    common.RemoveUnusedNodesPass()(model)
    return model


def feeds(batch: int, length: int, hidden: int) -> dict[str, np.ndarray]:
    return {
        "attended": RNG.standard_normal((batch, length, ATTENDED), dtype=np.float32),
        "residual": RNG.standard_normal((batch, length, hidden), dtype=np.float32),
    }


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("widths", WIDTHS)
def test_one_function_with_the_same_values(name: str, kernels: KernelsChoice, widths: Widths) -> None:
    model = lowered(dict.fromkeys(GEMMS, SCHEMES[name]), group_bias=name.startswith("GroupBias"), widths=widths)
    apart = session(model, kernels)
    assert len(ops(model)) == 9
    FusePostAttention()(model)
    assert ops(model) == sorted(["Abs", "Neg", name])
    together = session(model, kernels)
    # The kernel has separate paths for one token, a few, many, and enough for several threads.
    for batch, length in ((1, 1), (2, 3), (1, 40), (2, 300)):
        given = feeds(batch, length, widths.hidden)
        for result, expected in zip(together.run(None, given), apart.run(None, given), strict=True):
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("read", ["o", "after", "n", "gu", "d", "m"])
def test_values_with_other_readers_are_left_alone(read: str) -> None:
    model = lowered(dict.fromkeys(GEMMS, INT8), read=read)
    before = ops(model)
    FusePostAttention()(model)
    assert ops(model) == before


@pytest.mark.parametrize("other", GEMMS)
def test_weights_of_different_schemes_are_left_alone(other: str) -> None:
    zero_points = SCHEMES["ZeroPointPostAttention"]
    eight = Scheme(bits=8, group_size=32, symmetric=False, activation="none")
    for scheme in (INT8, eight):
        model = lowered({**dict.fromkeys(GEMMS, zero_points), other: scheme})
        before = ops(model)
        FusePostAttention()(model)
        assert ops(model) == before
