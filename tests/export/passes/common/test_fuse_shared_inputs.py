"""Linear layers that read the same input are fused."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.export.passes.common.fold_weight_transposes import FoldWeightTransposes
from edgekiln.export.passes.common.fuse_shared_inputs import FuseSharedInputs
from support.graphs import graph, node, ops, quantized, run_ort, run_reference

RNG = np.random.default_rng(0)
WIDTH = 64
INT4 = Scheme(bits=4, group_size=32, symmetric=False, activation="none")
INT8 = Scheme(bits=8, group_size=None, symmetric=True, activation="int8-per-token")
STATIC = Scheme(bits=8, group_size=None, symmetric=True, activation="int8-static")
# Output size of each layer; all differ, so that swapped parts show.
SIZES = {"q": 24, "k": 8, "v": 16}
HEADS = {"q": 4, "k": 2, "v": 2}


def layers(
    scheme: Scheme | None, biased: set[str], bias_first: bool = False
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """A linear layer of x for each of SIZES; outputs have the names of the layers."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}
    for name, n in SIZES.items():
        weight = RNG.standard_normal((n, WIDTH), dtype=np.float32)
        out = f"{name}.matmul" if name in biased else name
        if scheme is None:
            weights[f"{name}.w"] = weight
            nodes += [
                node("Transpose", [f"{name}.w"], f"{name}.t", perm=[1, 0]),
                node("MatMul", ["x", f"{name}.t"], out),
            ]
        else:
            tensors, _ = quantized(name, weight, scheme)
            weights |= tensors
            attributes = {"bits": scheme.bits, "group_size": scheme.group_size or 0, "activation": scheme.activation}
            nodes.append(node("QuantizedMatMul", ["x", *tensors], out, **attributes))
        if name in biased:
            weights[f"{name}.b"] = RNG.standard_normal(n, dtype=np.float32)
            terms = [f"{name}.b", out] if bias_first else [out, f"{name}.b"]
            nodes.append(node("Add", terms, name))
    return nodes, weights


def model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> ir.Model:
    """`nodes`, with a Neg after each layer, so that no layer is a graph output."""
    readers = [node("Neg", [name], f"{name}.out") for name in SIZES]
    outputs = {f"{name}.out": ["B", "S", n] for name, n in SIZES.items()}
    inside = {f"{name}{suffix}": ["B", "S", n] for name, n in SIZES.items() for suffix in ("", ".matmul")}
    return graph([*nodes, *readers], {"x": ["B", "S", WIDTH]}, outputs, weights, inside)


@pytest.mark.parametrize("scheme", [None, INT4, INT8], ids=["float", "int4", "int8"])
@pytest.mark.parametrize("biased", [set(), {"q", "k", "v"}, {"q"}], ids=["plain", "biases", "one-bias"])
@pytest.mark.parametrize("bias_first", [False, True])
def test_layers_become_one_with_the_same_values(scheme: Scheme | None, biased: set[str], bias_first: bool) -> None:
    fused = model(*layers(scheme, biased, bias_first))
    feeds = {"x": RNG.standard_normal((2, 3, WIDTH), dtype=np.float32)}
    expected = run_reference(fused, feeds)
    FuseSharedInputs()(fused)
    kinds = ops(fused)
    assert kinds.count("MatMul") + kinds.count("QuantizedMatMul") == 1
    assert kinds.count("Split") == 1
    assert kinds.count("Add") == {0: 0, 1: 1, 3: 1}[len(biased)]
    assert kinds.count("Neg") == len(SIZES)
    for result, wanted in zip(run_reference(fused, feeds), expected, strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-5)
    if scheme is None:
        FoldWeightTransposes()(fused)
        for result, wanted in zip(run_ort(fused, feeds), expected, strict=True):
            np.testing.assert_allclose(result, wanted, atol=1e-4)


def test_static_int8_layers_without_attention_are_left_alone() -> None:
    apart = model(*layers(STATIC, set()))
    before = ops(apart)
    FuseSharedInputs()(apart)
    assert ops(apart) == before


@pytest.mark.parametrize("biased", [set(), {"q", "k", "v"}], ids=["plain", "biases"])
def test_layers_that_feed_attention_are_fused(biased: set[str]) -> None:
    nodes, weights = layers(INT8, biased)
    # Heads of 8. v has two and attention takes the first, so that all widths differ.
    weights |= {f"{name}.split": np.array([0, 0, heads, 8]) for name, heads in (("q", 3), ("k", 1), ("v", 2))}
    for name in "qkv":
        nodes += [
            node("Reshape", [name, f"{name}.split"], f"{name}.s"),
            node("Transpose", [f"{name}.s"], f"{name}.h", perm=[0, 2, 1, 3]),
        ]
    weights |= {"past": np.zeros((2, 1, 0, 8), np.float32), "start": np.zeros(2, np.int64), "first": np.array([0])}
    weights |= {"one": np.array([1]), "heads": np.array([1])}
    nodes += [
        node("Slice", ["v.h", "first", "one", "heads"], "v.first"),
        node("Attention", ["q.h", "k.h", "v.first", "past", "past", "start"], ["out", "pk", "pv"], scale=0.3),
    ]
    outputs = {"out": ["B", "S", 3, 8], "pk": ["B", 1, "S", 8], "pv": ["B", 1, "S", 8]}
    inside = {f"{name}{suffix}": ["B", "S", n] for name, n in SIZES.items() for suffix in ("", ".matmul")}
    fused = graph(nodes, {"x": ["B", "S", WIDTH]}, outputs, weights, inside)
    feeds = {"x": RNG.standard_normal((2, 3, WIDTH), dtype=np.float32)}
    expected = run_reference(fused, feeds)
    FuseSharedInputs()(fused)
    assert ops(fused).count("QuantizedMatMul") == 1
    assert ops(fused).count("Add") == bool(biased)
    for result, wanted in zip(run_reference(fused, feeds), expected, strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-5)


def test_parts_keep_their_shapes() -> None:
    fused = model(*layers(INT4, set()))
    FuseSharedInputs()(fused)
    (split,) = [n for n in fused.graph if n.op_type == "Split"]
    assert [value.shape and value.shape[2] for value in split.outputs] == list(SIZES.values())


def test_layers_with_different_schemes_or_inputs_are_left_alone() -> None:
    coarse = Scheme(bits=4, group_size=64, symmetric=False, activation="none")
    weight = RNG.standard_normal((8, WIDTH), dtype=np.float32)
    nodes, weights = [node("Abs", ["x"], "positive")], {}
    for name, scheme, source in (("a", INT4, "x"), ("b", coarse, "x"), ("c", INT4, "positive")):
        tensors, _ = quantized(name, weight, scheme)
        weights |= tensors
        attributes = {"bits": 4, "group_size": scheme.group_size, "activation": "none"}
        nodes += [node("QuantizedMatMul", [source, *tensors], name, **attributes), node("Neg", [name], f"{name}.out")]
    outputs = {f"{name}.out": ["B", "S", 8] for name in "abc"}
    apart = graph(nodes, {"x": ["B", "S", WIDTH]}, outputs, weights)
    before = ops(apart)
    FuseSharedInputs()(apart)
    assert ops(apart) == before


def test_a_matmul_of_two_computed_values_is_left_alone() -> None:
    nodes = [
        node("Transpose", ["y"], "t", perm=[1, 0]),
        node("MatMul", ["x", "t"], "a"),
        node("MatMul", ["x", "t"], "b"),
        node("Add", ["a", "b"], "out"),
    ]
    apart = graph(nodes, {"x": [3, WIDTH], "y": [8, WIDTH]}, {"out": [3, 8]}, {})
    FuseSharedInputs()(apart)
    assert ops(apart) == ["Add", "MatMul", "MatMul", "Transpose"]


@pytest.mark.parametrize(("scales", "matmuls"), [((0.02, 0.02, 0.02), 1), ((0.02, 0.02, 0.03), 2)])
def test_static_int8_layers_with_one_input_scale_are_fused(scales: tuple[float, ...], matmuls: int) -> None:
    """Query, key and value that feed attention are fused where they have the same input scale."""
    nodes, weights, inside = [], {}, {}
    for (name, heads), scale in zip(HEADS.items(), scales, strict=True):
        tensors, _ = quantized(name, RNG.standard_normal((heads * 8, WIDTH), dtype=np.float32), STATIC)
        weights |= tensors | {f"{name}.input_scale": np.array(scale, np.float32)}
        given = ["x", *tensors, "", "", f"{name}.input_scale"]
        nodes += [
            node("QuantizedMatMul", given, name, bits=8, group_size=0, activation="int8-static"),
            node("Reshape", [name, "heads"], f"{name}.heads"),
            node("Transpose", [f"{name}.heads"], f"{name}.turned", perm=[0, 2, 1, 3]),
        ]
        inside |= {name: ["B", "S", heads * 8], f"{name}.turned": ["B", heads, "S", 8]}
    nodes.append(
        node(
            "Attention",
            [*(f"{name}.turned" for name in HEADS), "past", "past", "start_ids"],
            ["out", "pk", "pv"],
            scale=1.0,
        )
    )
    weights |= {"heads": np.array([0, 0, -1, 8])}
    fused = graph(
        nodes,
        {"x": ["B", "S", WIDTH], "past": ["B", 2, "P", 8], "start_ids": ["B"]},
        {"out": ["B", "S", 4, 8], "pk": ["B", 2, "T", 8], "pv": ["B", 2, "T", 8]},
        weights,
        inside,
    )
    feeds = {
        "x": RNG.standard_normal((2, 3, WIDTH), dtype=np.float32),
        "past": RNG.standard_normal((2, 2, 5, 8), dtype=np.float32),
        "start_ids": np.zeros(2, np.int64),
    }
    expected = run_reference(fused, feeds)
    FuseSharedInputs()(fused)
    assert ops(fused).count("QuantizedMatMul") == matmuls
    for result, wanted in zip(run_reference(fused, feeds), expected, strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-5)
