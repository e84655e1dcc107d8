"""Single layers of the CUDA graph, in float16, against numpy."""

import numpy as np
import onnx_ir as ir
import pytest

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import CODEBOOKS, pack_int4
from edgekiln.export.lower import ort_cuda
from edgekiln.export.passes.ort.weight_only import MakeWeightOnly
from support.graphs import graph, node, ops, quantized, run_ort, run_reference

ROWS, MAX_LENGTH = 40, 16
RNG = np.random.default_rng(0)


def layer(tensors: dict[str, np.ndarray | None], columns: int, **attributes: int | str) -> ir.Model:
    weights = {name: array for name, array in tensors.items() if array is not None}
    names = [name if array is not None else "" for name, array in tensors.items()]
    nodes = [node("QuantizedMatMul", ["x", *names], "y", **{"activation": "none", "codebook": "", **attributes})]
    return graph(nodes, {"x": ["B", "S", columns]}, {"y": ["B", "S", ROWS]}, weights)


def check(model: ir.Model, columns: int, expected_ops: set[str]) -> None:
    x = RNG.standard_normal((2, 3, columns)).astype(np.float16)
    (expected,) = run_reference(model, {"x": x.astype(np.float32)})
    ort_cuda.lower(model, MAX_LENGTH)
    assert expected_ops <= set(ops(model))
    result = run_ort(model, {"x": x, "total_length": np.ones(1, np.int32)})[0]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=4e-3 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize(("columns", "group_size"), [(256, 128), (192, 64), (96, 32), (48, 16)])
def test_per_channel_weights_are_the_same_in_groups(columns: int, group_size: int) -> None:
    scheme = Scheme(bits=8, group_size=None, symmetric=True, activation="int8-per-token")
    tensors, weight = quantized("w", RNG.standard_normal((ROWS, columns), dtype=np.float32), scheme)
    model = layer(tensors, columns, bits=8, group_size=0, activation="int8-per-token")
    MakeWeightOnly()(model)
    (rewritten,) = model.graph
    assert rewritten.attributes["group_size"].as_int() == group_size
    x = RNG.standard_normal((2, 3, columns), dtype=np.float32)
    np.testing.assert_allclose(run_reference(model, {"x": x})[0], x @ weight.T, atol=1e-4)
    check(model, columns, {"MatMulNBits"})


def test_sizes_without_a_group_size_get_float_weights() -> None:
    scheme = Scheme(bits=8, group_size=None, symmetric=True, activation="int8-per-token")
    tensors, weight = quantized("w", RNG.standard_normal((ROWS, 50), dtype=np.float32), scheme)
    model = layer(tensors, 50, bits=8, group_size=0, activation="int8-per-token")
    MakeWeightOnly()(model)
    x = RNG.standard_normal((2, 3, 50), dtype=np.float32)
    np.testing.assert_allclose(run_reference(model, {"x": x})[0], x @ weight.T, atol=1e-4)
    check(model, 50, {"MatMul"})


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_groups(bits: int, symmetric: bool) -> None:
    scheme = Scheme(bits=bits, group_size=32, symmetric=symmetric, activation="none")
    tensors, _ = quantized("w", RNG.standard_normal((ROWS, 96), dtype=np.float32), scheme)
    check(layer(tensors, 96, bits=bits, group_size=32), 96, {"MatMulNBits"})


def test_group_bias_is_a_second_matmul() -> None:
    scheme = Scheme(bits=4, group_size=32, symmetric=True, activation="none")
    tensors, _ = quantized("w", RNG.standard_normal((ROWS, 96), dtype=np.float32), scheme)
    group_bias = RNG.standard_normal((ROWS, 3), dtype=np.float32)
    given = tensors | {"w.zero_points": None, "w.group_bias": group_bias}
    check(layer(given, 96, bits=4, group_size=32), 96, {"MatMulNBits", "ReduceSum", "MatMul"})


def test_codebook() -> None:
    codes = RNG.integers(0, len(CODEBOOKS["nf4"]), (ROWS, 128)).astype(np.uint8)
    scales = RNG.uniform(0.5, 2, (ROWS, 2)).astype(np.float32)
    given = {"w.qweight": pack_int4(codes), "w.scales": scales}
    check(layer(given, 128, bits=4, group_size=64, codebook="nf4"), 128, {"MatMulBnb4"})
