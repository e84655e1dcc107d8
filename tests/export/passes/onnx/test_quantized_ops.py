"""Quantized ops lowered to standard ops, run by ONNX Runtime, against numpy."""

import numpy as np
import onnx_ir as ir
import pytest

from edgekiln.calib.formats.scheme import Codebook, Scheme
from edgekiln.calib.formats.weight import CODEBOOKS, pack_int4
from edgekiln.export import canonical
from edgekiln.export.lower.tensorrt import LOWER_QUANTIZED_OPS
from support.graphs import graph, node, ops, quantized, run_reference, standard_session

RNG = np.random.default_rng(0)
N, K = 40, 96


def lowered(model: ir.Model) -> ir.Model:
    LOWER_QUANTIZED_OPS(model)
    model.opset_imports.pop(canonical.DOMAIN, None)
    return model


def matmul(tensors: dict[str, np.ndarray], inputs: list[str], **attributes: object) -> ir.Model:
    nodes = [node("QuantizedMatMul", ["x", *inputs], "y", **attributes)]
    return graph(nodes, {"x": ["B", "S", K]}, {"y": ["B", "S", N]}, tensors)


def weight(bits: int, group_size: int | None, symmetric: bool, activation: str = "none") -> dict[str, np.ndarray]:
    scheme = Scheme(bits=bits, group_size=group_size, symmetric=symmetric, activation=activation)  # type: ignore[arg-type]
    return quantized("w", RNG.standard_normal((N, K), dtype=np.float32), scheme)[0]


def check(model: ir.Model) -> list[str]:
    x = RNG.standard_normal((2, 3, K), dtype=np.float32)
    (expected,) = run_reference(model, {"x": x})
    (result,) = standard_session(lowered(model)).run(None, {"x": x})
    np.testing.assert_allclose(result, expected, atol=1e-4, rtol=0)
    return ops(model)


def test_symmetric_int4_is_one_matmul() -> None:
    tensors = weight(4, 32, symmetric=True)
    model = matmul(tensors, list(tensors), bits=4, group_size=32, activation="none")
    assert check(model) == ["DequantizeLinear", "MatMul"]
    stored = model.graph.initializers["w.qweight.int4"]
    assert stored.dtype == ir.DataType.INT4
    assert "w.zero_points" not in [value.name for n in model.graph for value in n.inputs if value is not None]


@pytest.mark.parametrize("group_size", [32])
def test_zero_points_of_int4_are_a_second_matmul(group_size: int) -> None:
    tensors = weight(4, group_size, symmetric=False)
    model = matmul(tensors, list(tensors), bits=4, group_size=group_size, activation="none")
    assert check(model) == ["Add", "DequantizeLinear", "MatMul", "MatMul", "ReduceSum", "Reshape"]
    assert all(len(n.inputs) == 2 for n in model.graph if n.op_type == "DequantizeLinear")


def test_group_bias_of_int4_is_a_second_matmul() -> None:
    tensors = weight(4, 32, symmetric=True)
    tensors["w.group_bias"] = RNG.standard_normal((N, K // 32), dtype=np.float32)
    inputs = ["w.qweight", "w.scales", "", "w.group_bias"]
    model = matmul(tensors, inputs, bits=4, group_size=32, activation="none")
    assert check(model).count("MatMul") == 2


def test_layers_with_the_same_input_share_its_group_sums() -> None:
    tensors = weight(4, 32, symmetric=False)
    attributes = {"bits": 4, "group_size": 32, "activation": "none"}
    nodes = [node("QuantizedMatMul", ["x", *tensors], name, **attributes) for name in ("y", "z")]
    model = graph(nodes, {"x": ["B", "S", K]}, {"y": ["B", "S", N], "z": ["B", "S", N]}, tensors)
    assert check_all(model).count("ReduceSum") == 1


def check_all(model: ir.Model) -> list[str]:
    x = RNG.standard_normal((2, 3, K), dtype=np.float32)
    expected = run_reference(model, {"x": x})
    for result, wanted in zip(standard_session(lowered(model)).run(None, {"x": x}), expected, strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-4, rtol=0)
    return ops(model)


def test_eight_bits_in_groups_become_float() -> None:
    tensors = weight(8, 32, symmetric=False)
    model = matmul(tensors, list(tensors), bits=8, group_size=32, activation="none")
    assert check(model) == ["MatMul", "Transpose"]


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_a_codebook_becomes_float(codebook: Codebook) -> None:
    codes = RNG.integers(0, len(CODEBOOKS[codebook]), (N, K), dtype=np.uint8)
    scales = (RNG.uniform(0.1, 1, (N, K // 32)) / CODEBOOKS[codebook].max()).astype(np.float32)
    tensors = {"w.qweight": pack_int4(codes), "w.scales": scales}
    model = matmul(tensors, list(tensors), bits=4, group_size=32, activation="none", codebook=codebook)
    assert check(model) == ["MatMul", "Transpose"]


def test_per_token_int8_with_outliers() -> None:
    tensors = weight(8, None, symmetric=True, activation="int8-per-token")
    model = matmul(tensors, list(tensors), bits=8, group_size=0, activation="int8-per-token")
    x = RNG.standard_normal((2, 3, K), dtype=np.float32)
    x[0, 0] *= 1e4  # with one scale for all tokens, the others would round to 0
    x[1, 1] = 0
    (expected,) = run_reference(model, {"x": x})
    (result,) = standard_session(lowered(model)).run(None, {"x": x})
    # Some elements are rounded differently, by 1/127 of the token's maximum.
    float_weight = tensors["w.qweight"] * tensors["w.scales"][:, None]
    step = np.abs(x).max(axis=-1, keepdims=True) / 127 * np.abs(float_weight).max(axis=1)
    assert (np.abs(result - expected) <= 2 * step + 1e-5).all()
    assert {"QuantizeLinear", "DequantizeLinear"} < set(ops(model))
    assert all(len(n.inputs) == 2 for n in model.graph if n.op_type in ("QuantizeLinear", "DequantizeLinear"))


@pytest.mark.parametrize("symmetric", [True, False])
def test_gather(symmetric: bool) -> None:
    tensors = weight(8, 32, symmetric)
    nodes = [node("QuantizedGather", ["ids", *tensors], "y", bits=8, group_size=32)]
    model = graph(nodes, {"ids": ["B", "S"]}, {"y": ["B", "S", K]}, tensors)
    ids = RNG.integers(0, N, (2, 5))
    (expected,) = run_reference(model, {"ids": ids})
    (result,) = standard_session(lowered(model)).run(None, {"ids": ids})
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert ops(model) == ["Gather"]
