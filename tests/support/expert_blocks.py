"""Graphs of the experts of a layer, from the tokens to the weighted sum, and what they compute."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from edgekiln.calib.formats.scheme import Scheme
from support.graphs import graph, node, quantized

EXPERTS, CHOSEN, HIDDEN, INNER = 5, 3, 64, 128
Array = np.ndarray


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@dataclass(frozen=True)
class Form:
    """An activation between the products.

    Attributes:
        width: columns that the first product has for each that the last one reads.
        nodes: from `a` to `h`.
        compute: the same in numpy.
        constants: initializers that the nodes read.
    """

    width: int
    nodes: list[onnx.NodeProto]
    compute: Callable[[Array], Array]
    constants: dict[str, Array]


def _swiglu(a: Array) -> Array:
    gate, up = np.split(a, 2, axis=-1)
    return gate * _sigmoid(gate) * up


def _clamped(a: Array) -> Array:
    gate, up = np.minimum(a[..., ::2], 2), np.clip(a[..., 1::2], -2, 2)
    return gate * _sigmoid(1.702 * gate) * (up + 1)


def _ints(**values: int) -> dict[str, Array]:
    return {name: np.array([value]) for name, value in values.items()}


_SWIGLU = [
    node("Split", ["a"], ["gate", "up"], axis=2, num_outputs=2),
    node("Sigmoid", ["gate"], "s"),
    node("Mul", ["gate", "s"], "silu"),
    node("Mul", ["silu", "up"], "h"),
]
FORMS = {
    "swiglu": Form(2, _SWIGLU, _swiglu, {}),
    "clamped": Form(
        2,
        [
            node("Slice", ["a", "zero", "end", "two", "two"], "gate"),
            node("Slice", ["a", "one", "end", "two", "two"], "up"),
            node("Clip", ["gate", "", "limit"], "g"),
            node("Clip", ["up", "low", "limit"], "u"),
            node("Mul", ["g", "alpha"], "scaled"),
            node("Sigmoid", ["scaled"], "s"),
            node("Mul", ["g", "s"], "gated"),
            node("Add", ["u", "beta"], "shifted"),
            node("Mul", ["shifted", "gated"], "h"),
        ],
        _clamped,
        {
            **_ints(zero=0, one=1, two=2, end=2**62),
            **{k: np.float32(v) for k, v in {"limit": 2, "low": -2, "alpha": 1.702, "beta": 1}.items()},
        },
    ),
    "relu": Form(1, [node("Relu", ["a"], "h")], lambda a: np.maximum(a, 0), {}),
    "silu": Form(
        1,
        [node("Sigmoid", ["a"], "s"), node("Mul", ["a", "s"], "h")],
        lambda a: a * _sigmoid(a),
        {},
    ),
    "tanh": Form(1, [node("Tanh", ["a"], "h")], np.tanh, {}),
}


@dataclass(frozen=True)
class Experts:
    """The experts of a layer.

    Attributes:
        graph: from x [T, H], ids [T, k] and gates [T, k] to y [T, H].
        first, down: dequantized weights [E, N, K].
        biases: of both products, [E, N]; None without.
        form: the activation.
    """

    graph: ir.Model
    first: Array
    down: Array
    biases: tuple[Array, Array] | None
    form: Form

    def expected(self, inputs: dict[str, Array], between: Callable[[Array], Array] = np.asarray) -> Array:
        """The weighted sum, one token and expert after another; `between` changes inputs of products."""
        x, ids, gates = (inputs[name].astype(np.float64) for name in ("x", "ids", "gates"))
        y = np.zeros_like(x)
        for t, slot in np.ndindex(*ids.shape):
            expert = int(ids[t, slot])
            first_bias, down_bias = (0, 0) if self.biases is None else (bias[expert] for bias in self.biases)
            inner = self.form.compute(self.first[expert] @ between(x[t]) + first_bias)
            y[t] += gates[t, slot] * (self.down[expert] @ between(inner) + down_bias)
        return y


def experts(
    name: str, scheme: Scheme, down_scheme: Scheme | None = None, biased: bool = False, inner: int = INNER
) -> Experts:
    """Random experts with the activation FORMS[name].

    Args:
        name: of the activation.
        scheme: of the first product.
        down_scheme: of the last product, by default the same.
        biased: whether products have biases.
        inner: inputs of the last product.
    """
    rng, form, down_scheme = np.random.default_rng(0), FORMS[name], down_scheme or scheme
    columns = form.width * inner
    first, first_names, first_weight = _weight(rng, "first", scheme, columns, HIDDEN)
    down, down_names, down_weight = _weight(rng, "down", down_scheme, HIDDEN, inner)
    tensors = {**first, **down, **form.constants, **_ints(axis=1, last=-1)}
    biases, first_output, down_output = None, "a", "o"
    if biased:
        biases = (_floats(rng, EXPERTS, columns), _floats(rng, EXPERTS, HIDDEN))
        tensors |= {"first.bias": biases[0], "down.bias": biases[1]}
        first_output, down_output = "a0", "o0"
    nodes = [
        node("Unsqueeze", ["x", "axis"], "tokens"),
        node("QuantizedExpertMatMul", ["tokens", "ids", *first_names], first_output, **_attributes(scheme)),
        *(_bias("first", first_output, "a") if biased else []),
        *form.nodes,
        node(
            "QuantizedExpertMatMul",
            ["h", "ids", *down_names],
            "o0" if biased else "o",
            **_attributes(down_scheme),
        ),
        *(_bias("down", down_output, "o") if biased else []),
        node("Unsqueeze", ["gates", "last"], "factors"),
        node("Mul", ["o", "factors"], "weighted"),
        node("ReduceSum", ["weighted", "axis"], "y", keepdims=0),
    ]
    shapes = {"a0": ["T", CHOSEN, columns], "a": ["T", CHOSEN, columns], "h": ["T", CHOSEN, inner]}
    shapes |= {"o0": ["T", CHOSEN, HIDDEN], "o": ["T", CHOSEN, HIDDEN]}
    inputs = {"x": ["T", HIDDEN], "ids": ["T", CHOSEN], "gates": ["T", CHOSEN]}
    return Experts(graph(nodes, inputs, {"y": ["T", HIDDEN]}, tensors, shapes), first_weight, down_weight, biases, form)


def inputs(tokens: int) -> dict[str, Array]:
    """Random tokens, experts and gates, of which one is 0."""
    rng = np.random.default_rng(1)
    ids = np.stack([rng.permutation(EXPERTS)[:CHOSEN] for _ in range(tokens)]).astype(np.int64)
    gates = rng.random((tokens, CHOSEN), dtype=np.float32)
    gates[0, 0] = 0
    return {"x": _floats(rng, tokens, HIDDEN), "ids": ids, "gates": gates}


def _floats(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape, dtype=np.float32)


def _weight(
    rng: np.random.Generator, name: str, scheme: Scheme, n: int, k: int
) -> tuple[dict[str, Array], list[str], Array]:
    """The tensors of a weight, the inputs of its product, and the dequantized weight."""
    size = 1 + np.arange(EXPERTS)  # experts differ in their scales
    parts = [quantized(name, _floats(rng, n, k) * each / np.sqrt(k), scheme) for each in size]
    tensors = {key: np.stack([part[key] for part, _ in parts]) for key in parts[0][0]}
    names = [f"{name}.{kind}" for kind in ("qweight", "scales", "zero_points") if f"{name}.{kind}" in tensors]
    return tensors, names, np.stack([values for _, values in parts])


def _attributes(scheme: Scheme) -> dict[str, int | str]:
    return {
        **{"bits": scheme.bits, "group_size": scheme.group_size or 0, "activation": scheme.activation},
        "codebook": scheme.codebook or "",
    }


def _bias(name: str, before: str, after: str) -> list[onnx.NodeProto]:
    return [
        node("Unsqueeze", ["ids", "last"], f"{name}.index"),
        node("GatherND", [f"{name}.bias", f"{name}.index"], f"{name}.biases"),
        node("Add", [before, f"{name}.biases"], after),
    ]
