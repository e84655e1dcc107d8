"""The block between two attentions, with a mixture of experts, becomes one MixturePostAttention call with the same
results.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes import Sequential, common

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.export.functions.mixture_post_attention import expert_inputs
from edgekiln.export.lower.ort_cpu import LOWER_QUANTIZED_OPS
from edgekiln.export.passes.ort.expert_matmul import LowerExpertMatMul
from edgekiln.export.passes.ort.mixture_of_experts import FuseMixtureOfExperts
from edgekiln.export.passes.ort.mixture_post_attention import FuseMixturePostAttention
from edgekiln.export.passes.ort.skip_rms_norm import FuseSkipRMSNorm
from edgekiln.export.passes.ort.swiglu import FuseSwiGLU
from edgekiln.export.step_weights import step_weight_bytes
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.runtimes.ort.kernels import LIBRARY
from support.expert_graphs import PER_CHANNEL, groups, indices
from support.graphs import graph, node, ops, quantized, run_reference, session

ATTENDED, HIDDEN, INNER, PROJECTED, EXPERTS, CHOSEN = 96, 64, 32, 80, 6, 3
WEIGHTS = {
    "output": (HIDDEN, ATTENDED),
    "gate_up": (2 * INNER, HIDDEN),
    "down": (HIDDEN, INNER),
    "next": (PROJECTED, HIDDEN),
}
SCHEMES = {
    "PerTokenInt8MixturePostAttention": PER_CHANNEL,
    "ZeroPointMixturePostAttention": groups(4),
    "SymmetricMixturePostAttention": groups(8, group_size=16, symmetric=True),
    "GroupBiasMixturePostAttention": groups(4, symmetric=True),
    "CodebookMixturePostAttention": indices("e2m1"),
}


class Routing(NamedTuple):
    """What a router does with its logits."""

    score: str  # Softmax or Sigmoid, "" for the Softmax of the chosen logits
    bias: bool = False
    choice_bias: bool = False
    normalized: bool = False
    epsilon: float = 0.0
    scale: float = 1.0
    is_sorted: int = 1


ROUTINGS = {
    "softmax": Routing("Softmax"),
    "softmax, normalized": Routing("Softmax", normalized=True),
    "softmax with a bias to choose by": Routing("Softmax", choice_bias=True, normalized=True, scale=1.5),
    "softmax of the chosen": Routing(""),
    "softmax of the chosen, biased": Routing("", bias=True),
    "sigmoid": Routing("Sigmoid", bias=True, scale=2.5),
    "sigmoid with a bias to choose by": Routing("Sigmoid", choice_bias=True, is_sorted=0),
    "sigmoid, normalized": Routing("Sigmoid", choice_bias=True, normalized=True, epsilon=1e-6, scale=0.5),
}
USUAL = ROUTINGS["softmax, normalized"]


class Block:
    """The canonical nodes of a layer from its attention's output to the next attention's input."""

    def __init__(self, rng: np.random.Generator, schemes: dict[str, Scheme], group_bias: bool) -> None:
        self.rng, self.schemes, self.group_bias = rng, schemes, group_bias
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.shapes: dict[str, Sequence[int | str]] = {}

    def add(self, op: str, inputs: Sequence[str], to: str | Sequence[str], **attributes: Any) -> None:
        self.nodes.append(node(op, inputs, to, **attributes))

    def constant(self, name: str, value: Any) -> str:
        self.weights[name] = np.asarray(value)
        return name

    def values(self, *shape: int, spread: float = 1.0) -> np.ndarray:
        return self.rng.standard_normal(shape, dtype=np.float32) * np.float32(spread)

    def multiply(self, x: str, weight: str, layer: str, to: str, index: str = "") -> None:
        """The product with a quantized weight, or with those of the experts `index`."""
        scheme, name = self.schemes[weight], layer + weight
        count = EXPERTS if index else 1
        parts = [quantized(name, self.values(*WEIGHTS[weight]) / 8, scheme)[0] for _ in range(count)]
        tensors = {key: np.stack([part[key] for part in parts]) if index else parts[0][key] for key in parts[0]}
        if self.group_bias:
            tensors[f"{name}.group_bias"] = self.values(*tensors[f"{name}.scales"].shape, spread=0.05)
        self.weights.update(tensors)
        names = [f"{name}.{part}" for part in ("qweight", "scales", "zero_points", "group_bias")]
        inputs = [each if each in tensors else "" for each in names]
        while not inputs[-1]:
            inputs.pop()
        numbers = {"bits": scheme.bits, "group_size": scheme.group_size or 0, "activation": scheme.activation}
        numbers["codebook"] = scheme.codebook or ""
        op, first = ("QuantizedExpertMatMul", [x, index]) if index else ("QuantizedMatMul", [x])
        self.add(op, [*first, *inputs], to, **numbers)

    def router(self, routing: Routing, layer: str, weight: np.ndarray) -> None:
        """From `x` [T, H] to `ids` and `gates`, as the tracer makes them."""
        inputs = [f"{layer}x", self.constant(f"{layer}router", weight)]
        if routing.bias:
            inputs.append(self.constant(f"{layer}router_bias", self.values(EXPERTS)))
        self.add("Gemm", inputs, f"{layer}logits", transB=1)
        scores = preferences = f"{layer}logits"
        if routing.score:
            scores = preferences = f"{layer}scores"
            self.add(routing.score, [f"{layer}logits"], scores, **({"axis": 1} if routing.score == "Softmax" else {}))
        if routing.choice_bias:
            preferences = f"{layer}preferences"
            self.add("Add", [self.constant(f"{layer}choice", self.values(EXPERTS, spread=0.2)), scores], preferences)
        outputs, gates = [f"{layer}chosen", f"{layer}ids"], f"{layer}chosen"
        count = self.constant("count", np.array([CHOSEN]))
        self.add("TopK", [preferences, count], outputs, axis=-1, sorted=routing.is_sorted)
        if routing.choice_bias:
            gates = f"{layer}gathered"
            self.add("GatherElements", [scores, f"{layer}ids"], gates, axis=1)
        if not routing.score:
            gates = f"{layer}softmax"
            self.add("Softmax", [f"{layer}chosen"], gates, axis=-1)
        if routing.normalized:
            total = f"{layer}total"
            self.add("ReduceSum", [gates, self.constant("last", np.array([-1]))], total, keepdims=1)
            if routing.epsilon:
                self.add("Add", [total, self.constant("tiny", np.float32(routing.epsilon))], f"{layer}divisor")
                total = f"{layer}divisor"
            self.add("Div", [gates, total], f"{layer}divided")
            gates = f"{layer}divided"
        if routing.scale != 1:
            self.add("Mul", [gates, self.constant("scale", np.float32(routing.scale))], f"{layer}scaled")
            gates = f"{layer}scaled"
        self.add("Unsqueeze", [gates, self.constant("last", np.array([-1]))], f"{layer}gates")
        self.shapes |= {f"{layer}ids": ["T", CHOSEN], gates: ["T", CHOSEN], f"{layer}gates": ["T", CHOSEN, 1]}

    def layer(self, routing: Routing, layer: str, attended: str, residual: str, router: np.ndarray) -> None:
        """Writes `projected` and `sum`, with `layer` before their names, as before all others."""

        def name(each: str) -> str:
            return layer + each

        for gamma in ("gamma", "next_gamma"):
            self.constant(name(gamma), 1 + self.values(HIDDEN, spread=0.1))
        self.constant("halves", np.array([INNER] * 2))
        self.constant("rows", np.array([-1, HIDDEN]))
        self.constant("one", np.array([1]))
        self.multiply(attended, "output", layer, name("o"))
        self.add("Add", [residual, name("o")], name("after"))
        self.add("RMSNormalization", [name("after"), name("gamma")], name("n"), axis=-1)
        self.add("Reshape", [name("n"), "rows"], name("x"))
        self.router(routing, layer, router)
        self.add("Unsqueeze", [name("x"), "one"], name("token"))
        self.multiply(name("token"), "gate_up", layer, name("gu"), name("ids"))
        self.add("Split", [name("gu"), "halves"], [name("gate"), name("up")], axis=-1)
        self.add("Sigmoid", [name("gate")], name("sigmoid"))
        self.add("Mul", [name("gate"), name("sigmoid")], name("silu"))
        self.add("Mul", [name("silu"), name("up")], name("gated"))
        self.multiply(name("gated"), "down", layer, name("d"), name("ids"))
        self.add("Mul", [name("d"), name("gates")], name("weighted"))
        self.add("ReduceSum", [name("weighted"), "one"], name("mixed"), keepdims=0)
        self.add("Shape", ["residual"], name("shape"))
        self.add("Reshape", [name("mixed"), name("shape")], name("experts"))
        self.add("Add", [name("after"), name("experts")], name("sum"))
        self.add("RMSNormalization", [name("sum"), name("next_gamma")], name("m"), axis=-1, epsilon=1e-3)
        self.multiply(name("m"), "next", layer, name("projected"))
        hidden = ["B", "S", HIDDEN]
        self.shapes |= {name(each): hidden for each in ("o", "after", "n", "experts", "sum", "m")}
        self.shapes |= {name(each): ["T", CHOSEN, INNER] for each in ("gate", "up", "sigmoid", "silu", "gated")}
        self.shapes |= {name("x"): ["T", HIDDEN], name("mixed"): ["T", HIDDEN], name("token"): ["T", 1, HIDDEN]}
        self.shapes |= {name("d"): ["T", CHOSEN, HIDDEN], name("weighted"): ["T", CHOSEN, HIDDEN]}
        self.shapes[name("projected")] = ["B", "S", PROJECTED]


def canonical(
    schemes: dict[str, Scheme],
    routings: Sequence[Routing] = (USUAL,),
    *,
    group_bias: bool = False,
    read: str = "",
    router: np.ndarray | None = None,
) -> ir.Model:
    """A layer for each routing; a second one reads `attended`, too."""
    rng = np.random.default_rng(0)
    block = Block(rng, schemes, group_bias)
    outputs: dict[str, Sequence[int | str]] = {}
    residual = "residual"
    for number, routing in enumerate(routings):
        layer = f"l{number}." if number else ""
        weight = block.values(EXPERTS, HIDDEN, spread=0.3) if router is None else router
        block.layer(routing, layer, "attended", residual, weight)
        block.add("Abs", [f"{layer}projected"], f"{layer}projected_out")
        outputs[f"{layer}projected_out"] = ["B", "S", PROJECTED]
        residual = f"{layer}sum"
    block.add("Neg", [residual], "residual_out")
    outputs["residual_out"] = ["B", "S", HIDDEN]
    if read:
        block.add("Identity", [read], "other")
        outputs["other"] = block.shapes.get(read, ["T", EXPERTS])
    inputs = {"attended": ["B", "S", ATTENDED], "residual": ["B", "S", HIDDEN]}
    return graph(block.nodes, inputs, outputs, block.weights, block.shapes)


def lower(model: ir.Model) -> ir.Model:
    """Down to ops of ONNX Runtime and MixtureOfExperts."""
    passes = (FuseSkipRMSNorm(), LowerExpertMatMul(), LOWER_QUANTIZED_OPS, FuseSwiGLU())
    Sequential(*passes, common.RemoveUnusedNodesPass(), FuseMixtureOfExperts())(model)
    return model


def feeds(batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, batch, length])
    # Small before the router: what quantizing it to int8 adds decides between no experts.
    attended = rng.standard_normal((batch, length, ATTENDED), dtype=np.float32) / 10
    return {"attended": attended, "residual": rng.standard_normal((batch, length, HIDDEN), dtype=np.float32)}


def error(results: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    return max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(results, expected, strict=True))


# One token, a few, many, and so many that 4-bit weights are multiplied in another way.
CALLS = ((1, 1), (2, 3), (1, 40), (2, 70))
SHORT, QUANTIZED, ROUNDED = CALLS[:3], 0.03, 2e-3


def check(model: ir.Model, name: str, kernels: KernelsChoice) -> None:
    """The function against the nodes and, with activations in float, numpy."""
    expected = [run_reference(model, feeds(*call)) for call in SHORT]
    apart = session(lower(model), kernels)
    FuseMixturePostAttention()(model)
    common.RemoveUnusedNodesPass()(model)
    assert ops(model) == sorted(["Abs", "Neg", name])
    together = session(model, kernels)
    for call, reference in zip(SHORT, expected, strict=True):
        assert error(together.run(None, feeds(*call)), reference) < QUANTIZED
    for call in CALLS:
        results, nodes = (runner.run(None, feeds(*call)) for runner in (together, apart))
        if kernels == "onnxruntime":
            # An unsorted TopK adds gates in another order.
            assert error(results, nodes) < 1e-5
        else:
            # The router rounds in another way; a value halfway between two int8 codes may be rounded to either.
            assert error(results, nodes) < ROUNDED


@pytest.mark.parametrize("name", SCHEMES)
def test_one_function_with_the_same_values(name: str, kernels: KernelsChoice) -> None:
    check(canonical(dict.fromkeys(WEIGHTS, SCHEMES[name]), group_bias=name.startswith("GroupBias")), name, kernels)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_routers(routing: str, kernels: KernelsChoice) -> None:
    model = canonical(dict.fromkeys(WEIGHTS, groups(4)), (ROUTINGS[routing],))
    check(model, "ZeroPointMixturePostAttention", kernels)


@pytest.mark.parametrize("routing", [name for name, routing in ROUTINGS.items() if not routing.choice_bias])
def test_of_equal_scores_the_first_are_chosen(routing: str, kernels: KernelsChoice) -> None:
    """Where all logits are equal, and where those of two experts are."""
    rng = np.random.default_rng(1)
    pairs = np.repeat(rng.standard_normal((EXPERTS // 2, HIDDEN), dtype=np.float32), 2, axis=0)
    for router in (np.zeros((EXPERTS, HIDDEN), np.float32), pairs):
        model = canonical(dict.fromkeys(WEIGHTS, groups(4)), (ROUTINGS[routing],), router=router)
        check(model, "ZeroPointMixturePostAttention", kernels)


@pytest.mark.parametrize("name", SCHEMES)
def test_tokens_do_not_depend_on_their_neighbours(name: str) -> None:
    model = lower(canonical(dict.fromkeys(WEIGHTS, SCHEMES[name]), group_bias=name.startswith("GroupBias")))
    FuseMixturePostAttention()(model)
    runner = session(model, "edgekiln")
    for length in (1, 4, 20, 60):
        given, other = feeds(2, length), feeds(2, length, seed=1)
        mixed = {key: np.concatenate([value[:1], other[key][1:]]) for key, value in given.items()}
        for result, expected in zip(runner.run(None, mixed), runner.run(None, given), strict=True):
            np.testing.assert_array_equal(result[0], expected[0])


def test_any_number_of_threads_gives_the_same_bits() -> None:
    model = lower(canonical(dict.fromkeys(WEIGHTS, groups(4))))
    FuseMixturePostAttention()(model)
    one = session(model, "edgekiln")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 3
    options.register_custom_ops_library(str(LIBRARY))
    several = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    for call in CALLS:
        for result, expected in zip(several.run(None, feeds(*call)), one.run(None, feeds(*call)), strict=True):
            np.testing.assert_array_equal(result, expected)


def fused(model: ir.Model) -> int:
    lower(model)
    FuseMixturePostAttention()(model)
    return sum(op.endswith("MixturePostAttention") for op in ops(model))


def test_layers_with_the_same_router_are_fused_alike(kernels: KernelsChoice) -> None:
    model = canonical(dict.fromkeys(WEIGHTS, PER_CHANNEL), (USUAL, USUAL))
    expected = session(lower(model.clone()), kernels).run(None, feeds(1, 5))
    assert fused(model) == 2
    assert error(session(model, kernels).run(None, feeds(1, 5)), expected) < ROUNDED


def test_a_layer_with_another_router_is_left_alone(kernels: KernelsChoice) -> None:
    model = canonical(dict.fromkeys(WEIGHTS, PER_CHANNEL), (USUAL, ROUTINGS["sigmoid"]))
    expected = session(lower(model.clone()), kernels).run(None, feeds(1, 5))
    assert fused(model) == 1
    assert error(session(model, kernels).run(None, feeds(1, 5)), expected) < ROUNDED


@pytest.mark.parametrize(
    "read", ["o", "after", "n", "x", "logits", "scores", "chosen", "gates", "mixed", "experts", "m"]
)
def test_values_with_other_readers_are_left_alone(read: str) -> None:
    assert fused(canonical(dict.fromkeys(WEIGHTS, PER_CHANNEL), read=read)) == 0


@pytest.mark.parametrize("other", WEIGHTS)
def test_weights_of_different_schemes_are_left_alone(other: str) -> None:
    symmetric = groups(4, symmetric=True)
    assert fused(canonical({**dict.fromkeys(WEIGHTS, groups(4)), other: symmetric})) == 0


@pytest.mark.parametrize("other", ["gate_up", "down"])
def test_experts_may_have_other_bits(other: str, kernels: KernelsChoice) -> None:
    model = canonical({**dict.fromkeys(WEIGHTS, groups(4)), other: groups(8)})
    check(model, "ZeroPointMixturePostAttention", kernels)


@pytest.mark.parametrize("name", SCHEMES)
def test_of_the_experts_the_chosen_ones_are_read(name: str) -> None:
    """A step reads as many bytes of weights from the function as from the nodes."""
    routing = ROUTINGS["sigmoid, normalized"]
    model = canonical(dict.fromkeys(WEIGHTS, SCHEMES[name]), (routing,), group_bias=name.startswith("GroupBias"))
    lower(model)
    nodes = step_weight_bytes(model, halves=False)
    # Constants of the nodes that the function has as attributes or computes.
    small = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None and value.const_value.size <= 2
    )
    FuseMixturePostAttention()(model)
    (call,) = (each for each in model.graph if each.op_type == name)
    assert {len(call.inputs[i].shape) for i in expert_inputs(call)} <= {2, 3, 4}
    assert all(call.inputs[i].shape[0] == EXPERTS for i in expert_inputs(call))
    assert step_weight_bytes(model, halves=False) == nodes - small
