"""Products of tokens with the weights of their experts, lowered for ONNX Runtime, against numpy."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import Sequential

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.export.passes.ort.expert_matmul import LowerExpertMatMul
from edgekiln.runtimes.base import KernelsChoice
from support.expert_graphs import (
    CHOSEN,
    EXPERTS,
    PER_CHANNEL,
    K,
    N,
    expected,
    feeds,
    float_graph,
    groups,
    indices,
    quantized_graph,
    weights,
)
from support.graphs import ops, run_reference, session

SCHEMES = {
    "ExpertMatMulNBits": (groups(4), groups(8)),
    "SymmetricExpertMatMulNBits": (groups(4, symmetric=True), groups(8, symmetric=True)),
    "CodebookExpertMatMulNBits": (indices("e2m1"), indices("iq4_nl")),
    "PerTokenInt8ExpertMatMul": (PER_CHANNEL,),
}
CASES = [(op, scheme) for op, schemes in SCHEMES.items() for scheme in schemes]
KERNELS = pytest.mark.parametrize("kernels", ["edgekiln", "onnxruntime"])


def lower(model: ir.Model) -> ir.Model:
    Sequential(LowerExpertMatMul())(model)
    return model


def bound(inputs: dict[str, np.ndarray], weight: np.ndarray) -> np.ndarray:
    """The largest difference from products with activations that are quantized to int8, in blocks or by token."""
    step = np.abs(inputs["x"]).max(axis=-1, keepdims=True) / 127
    return expected({"x": np.broadcast_to(step, inputs["x"].shape), "ids": inputs["ids"]}, np.abs(weight)) + 1e-3


@KERNELS
@pytest.mark.parametrize("slots", [1, CHOSEN])
@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_float(tokens: int, slots: int, kernels: KernelsChoice) -> None:
    rng = np.random.default_rng(tokens)
    weight, inputs = weights(rng), feeds(rng, tokens, slots)
    model = float_graph(weight, slots)
    np.testing.assert_allclose(run_reference(model, inputs)[0], expected(inputs, weight), rtol=1e-4, atol=1e-3)
    assert ops(lower(model)) == ["ExpertMatMul"]
    (result,) = session(model, kernels).run(None, inputs)
    np.testing.assert_allclose(result, expected(inputs, weight), rtol=1e-4, atol=1e-3)


@KERNELS
@pytest.mark.parametrize(("op", "scheme"), CASES, ids=str)
@pytest.mark.parametrize("slots", [1, CHOSEN])
@pytest.mark.parametrize("tokens", [1, 20])
def test_quantized(op: str, scheme: Scheme, tokens: int, slots: int, kernels: KernelsChoice) -> None:
    rng = np.random.default_rng(tokens)
    inputs = feeds(rng, tokens, slots)
    model, weight = quantized_graph(weights(rng), scheme, slots)
    assert (np.abs(run_reference(model, inputs)[0] - expected(inputs, weight)) <= bound(inputs, weight)).all()
    assert ops(lower(model)) == [op]
    (result,) = session(model, kernels).run(None, inputs)
    assert (np.abs(result - expected(inputs, weight)) <= bound(inputs, weight)).all()


@KERNELS
@pytest.mark.parametrize("bits", [4, 8])
def test_group_bias(bits: int, kernels: KernelsChoice) -> None:
    rng = np.random.default_rng(bits)
    inputs = feeds(rng, 4, 1)
    bias = rng.standard_normal((EXPERTS, N, K // 32), dtype=np.float32)
    model, weight = quantized_graph(weights(rng), groups(bits, symmetric=True), 1, bias)
    np.testing.assert_allclose(run_reference(model, inputs)[0], expected(inputs, weight), rtol=1e-4, atol=1e-3)
    assert ops(lower(model)) == ["GroupBiasExpertMatMulNBits"]
    (result,) = session(model, kernels).run(None, inputs)
    assert (np.abs(result - expected(inputs, weight)) <= bound(inputs, weight)).all()
