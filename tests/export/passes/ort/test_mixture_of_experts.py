"""What the experts of each token do becomes one MixtureOfExperts call with the same results."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes import Sequential, common

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.export.passes.ort.expert_matmul import LowerExpertMatMul
from edgekiln.export.passes.ort.mixture_of_experts import FuseMixtureOfExperts
from edgekiln.export.passes.ort.swiglu import FuseSwiGLU
from edgekiln.runtimes.base import KernelsChoice
from support.expert_graphs import PER_CHANNEL, groups, indices
from support.graphs import graph, node, ops, quantized, run_reference, session

RNG = np.random.default_rng(0)
EXPERTS, CHOSEN, HIDDEN, INNER = 5, 3, 64, 96
GROUP_BIAS = groups(4, symmetric=True)
# Name -> the schemes of gate_up and down.
MIXTURES = {
    "ZeroPointZeroPoint": (groups(4), groups(4)),
    "ZeroPointSymmetric": (groups(4), groups(8, group_size=16, symmetric=True)),
    "SymmetricZeroPoint": (groups(8, symmetric=True), groups(4)),
    "SymmetricSymmetric": (groups(4, symmetric=True), groups(8, symmetric=True)),
    "GroupBiasSymmetric": (GROUP_BIAS, groups(8, group_size=16, symmetric=True)),
    "GroupBiasGroupBias": (GROUP_BIAS, GROUP_BIAS),
    "CodebookCodebook": (indices("e2m1"), indices("iq4_nl")),
    "CodebookZeroPoint": (indices("iq4_nl"), groups(4)),
    "SymmetricCodebook": (groups(8, symmetric=True), indices("e2m1")),
    "PerTokenInt8PerTokenInt8": (PER_CHANNEL, PER_CHANNEL),
}


def mixture(gate_up: Scheme, down: Scheme, biased: tuple[bool, bool], sum_axis: int = 1, read: str = "") -> ir.Model:
    """A canonical graph of a mixture whose router is outside; `biased` projections have a group bias."""
    weights: dict[str, np.ndarray] = {"sizes": np.array([INNER, INNER]), "axis": np.array([sum_axis])}
    nodes: list[onnx.NodeProto] = []

    def multiply(x: str, name: str, shape: tuple[int, int], scheme: Scheme, bias: bool, to: str) -> None:
        of_experts = [
            quantized(name, RNG.standard_normal(shape, dtype=np.float32) / 8, scheme)[0] for _ in range(EXPERTS)
        ]
        tensors = {key: np.stack([of_expert[key] for of_expert in of_experts]) for key in of_experts[0]}
        if bias:
            assert scheme.group_size
            size = (EXPERTS, shape[0], shape[1] // scheme.group_size)
            tensors[f"{name}.group_bias"] = RNG.standard_normal(size, dtype=np.float32) / 20
        weights.update(tensors)
        names = [f"{name}.{part}" for part in ("qweight", "scales", "zero_points", "group_bias")]
        inputs = [each if each in tensors else "" for each in names]
        while not inputs[-1]:
            inputs.pop()
        attributes = {"bits": scheme.bits, "group_size": scheme.group_size or 0, "activation": scheme.activation}
        attributes["codebook"] = scheme.codebook or ""
        nodes.append(node("QuantizedExpertMatMul", [x, "ids", *inputs], to, **attributes))

    multiply("x", "gate_up", (2 * INNER, HIDDEN), gate_up, biased[0], "projected")
    nodes += [
        node("Split", ["projected", "sizes"], ["gate", "up"], axis=-1),
        node("Sigmoid", ["gate"], "sigmoid"),
        node("Mul", ["gate", "sigmoid"], "silu"),
        node("Mul", ["silu", "up"], "gated"),
    ]
    multiply("gated", "down", (HIDDEN, INNER), down, biased[1], "outputs")
    nodes += [
        node("Mul", ["outputs", "gates"], "weighted"),
        node("ReduceSum", ["weighted", "axis"], "y", keepdims=0),
    ]
    outputs = {"y": ["T", HIDDEN] if sum_axis == 1 else ["T", CHOSEN]}
    if read:
        nodes.append(node("Neg", [read], "other"))
        outputs["other"] = ["T", CHOSEN, None]
    inputs = {"x": ["T", 1, HIDDEN], "ids": ["T", CHOSEN], "gates": ["T", CHOSEN, 1]}
    inside = {name: ["T", CHOSEN, INNER] for name in ("gate", "up")}
    return graph(nodes, inputs, outputs, weights, inside)


def lower(model: ir.Model) -> list[str]:
    Sequential(LowerExpertMatMul(), FuseSwiGLU(), common.RemoveUnusedNodesPass(), FuseMixtureOfExperts())(model)
    return ops(model)


def feeds(tokens: int) -> dict[str, np.ndarray]:
    ids = np.stack([RNG.permutation(EXPERTS)[:CHOSEN] for _ in range(tokens)])
    return {
        "x": RNG.standard_normal((tokens, 1, HIDDEN), dtype=np.float32),
        "ids": ids.astype(np.int64),
        "gates": RNG.random((tokens, CHOSEN, 1), dtype=np.float32),
    }


@pytest.mark.parametrize("kernels", ["edgekiln", "onnxruntime"])
@pytest.mark.parametrize("name", MIXTURES)
def test_one_function_with_the_same_values(name: str, kernels: KernelsChoice) -> None:
    schemes = MIXTURES[name]
    model = mixture(*schemes, biased=(schemes[0] is GROUP_BIAS, schemes[1] is GROUP_BIAS))
    inputs = {tokens: feeds(tokens) for tokens in (1, 6, 40)}
    expected = {tokens: run_reference(model, inputs[tokens])[0] for tokens in inputs}
    assert lower(model) == [f"{name}MixtureOfExperts"]
    runner = session(model, kernels)
    for tokens, each in inputs.items():
        (result,) = runner.run(None, each)
        error = np.linalg.norm(result - expected[tokens]) / np.linalg.norm(expected[tokens])
        assert error < 0.02  # activations are quantized to int8


@pytest.mark.parametrize("read", ["projected", "gated", "outputs", "weighted"])
def test_parts_with_other_readers_are_left_alone(read: str) -> None:
    left = lower(mixture(groups(4), groups(4), (False, False), read=read))
    assert not any("Mixture" in op for op in left)


def test_another_sum_is_left_alone() -> None:
    left = lower(mixture(groups(4), groups(4), (False, False), sum_axis=2))
    assert not any("Mixture" in op for op in left)
