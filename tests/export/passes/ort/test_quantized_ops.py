"""Quantized ops in ONNX Runtime against numpy, to the rounding of quantized activations."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from edgekiln.calib.formats.scheme import Codebook, Scheme
from edgekiln.export.lower.ort_cpu import LOWER_QUANTIZED_OPS
from edgekiln.export.passes.onnx.static_int8 import LowerStaticInt8ToQDQ
from edgekiln.export.weights_file import WeightsFile, save_graph
from edgekiln.runtimes.base import KernelsChoice
from support.graphs import graph, node, ops, quantized, run_ort, run_reference, session

RNG = np.random.default_rng(0)
N = 40
PER_TOKEN = Scheme(bits=8, group_size=None, symmetric=True, activation="int8-per-token")
STATIC = Scheme(bits=8, group_size=None, symmetric=True, activation="int8-static")


def grouped(bits: int, group_size: int) -> Scheme:
    return Scheme(bits=bits, group_size=group_size, symmetric=False, activation="none")


def matmul(scheme: Scheme, k: int) -> tuple[ir.Model, np.ndarray]:
    """One QuantizedMatMul of x to y, and its dequantized weight."""
    tensors, weight = quantized("w", RNG.standard_normal((N, k), dtype=np.float32), scheme)
    attributes = {"bits": scheme.bits, "group_size": scheme.group_size or 0, "activation": scheme.activation}
    nodes = [node("QuantizedMatMul", ["x", *tensors], "y", **attributes)]
    return graph(nodes, {"x": ["B", "S", k]}, {"y": ["B", "S", N]}, tensors), weight


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("group_size", "groups"), [(32, 1), (32, 2), (32, 3), (32, 5), (64, 1), (64, 2), (64, 3), (128, 1), (128, 3)]
)
@pytest.mark.parametrize("tokens", [1, 3])
def test_groups(bits: int, group_size: int, groups: int, tokens: int) -> None:
    model, weight = matmul(grouped(bits, group_size), group_size * groups)
    x = RNG.standard_normal((2, tokens, group_size * groups), dtype=np.float32)
    (expected,) = run_reference(model, {"x": x})
    np.testing.assert_allclose(expected, x @ weight.T, atol=1e-4)
    LOWER_QUANTIZED_OPS(model)
    assert ops(model) == ["MatMulNBits"]
    # The kernel quantizes blocks of activations to int8: an error of up to half of max|x| / 127 an element.
    step = np.abs(x).reshape(2, tokens, groups, group_size).max(axis=-1) / 127
    bound = np.repeat(step, group_size, axis=-1) / 2 @ np.abs(weight).T
    (result,) = run_ort(model, {"x": x})
    assert (np.abs(result - expected) <= bound + 1e-4).all()


@pytest.mark.parametrize("tokens", [1, 7])
def test_per_token_int8_with_outliers(tokens: int) -> None:
    model, weight = matmul(PER_TOKEN, 96)
    x = RNG.standard_normal((2, tokens, 96), dtype=np.float32)
    x[0, 0] *= 1e4  # with one scale for all tokens, the others would round to 0
    x[1, -1] *= 1e-4
    (expected,) = run_reference(model, {"x": x})
    LOWER_QUANTIZED_OPS(model)
    (result,) = run_ort(model, {"x": x})
    # Reference and kernel may round some elements differently, by 1/127 of the token's maximum.
    largest = np.abs(x).max(axis=-1, keepdims=True)
    assert (np.abs(result - expected) <= largest / 127 * 3 * np.abs(weight).max()).all()
    error = np.linalg.norm(result - x @ weight.T, axis=-1) / np.linalg.norm(x @ weight.T, axis=-1)
    assert error.max() < 0.03


def test_tokens_of_zeros_give_zeros() -> None:
    model, _ = matmul(PER_TOKEN, 96)
    LOWER_QUANTIZED_OPS(model)
    x = RNG.standard_normal((2, 3, 96), dtype=np.float32)
    x[0] = 0
    (result,) = run_ort(model, {"x": x})
    assert np.isfinite(result).all()
    assert (result[0] == 0).all()
    (result,) = run_ort(model, {"x": np.zeros((1, 4, 96), np.float32)})
    assert (result == 0).all()


def test_extreme_codes_do_not_saturate() -> None:
    # The largest products of one sign: CPUs without VNNI add pairs of them in 16 bits.
    weight = np.full((N, 96), 1.0, np.float32)
    tensors, stored = quantized("w", weight, PER_TOKEN)
    nodes = [node("QuantizedMatMul", ["x", *tensors], "y", bits=8, group_size=0, activation="int8-per-token")]
    model = graph(nodes, {"x": ["B", "S", 96]}, {"y": ["B", "S", N]}, tensors)
    LOWER_QUANTIZED_OPS(model)
    x = np.full((1, 4, 96), 3.0, np.float32)
    np.testing.assert_allclose(run_ort(model, {"x": x})[0], x @ stored.T, rtol=0.01)


def test_activations_are_quantized_within_one_op() -> None:
    nodes, weights = [], {}
    for name in "ab":
        tensors, _ = quantized(name, RNG.standard_normal((N, 96), dtype=np.float32), PER_TOKEN)
        weights |= tensors
        attributes = {"bits": 8, "group_size": 0, "activation": "int8-per-token"}
        nodes.append(node("QuantizedMatMul", ["x", *tensors], name, **attributes))
    nodes.append(node("Sub", ["a", "b"], "y"))
    model = graph(nodes, {"x": ["B", "S", 96]}, {"y": ["B", "S", N]}, weights)
    x = RNG.standard_normal((2, 3, 96), dtype=np.float32)
    (expected,) = run_reference(model, {"x": x})
    LOWER_QUANTIZED_OPS(model)
    assert ops(model) == ["PerTokenInt8MatMul"] * 2 + ["Sub"]
    np.testing.assert_allclose(run_ort(model, {"x": x})[0], expected, atol=0.05 * np.abs(expected).max())


def static_layers(scales: list[float]) -> ir.Model:
    """A QuantizedMatMul of x for each input scale, to y0, y1, ..."""
    nodes, weights = [], {}
    for index, scale in enumerate(scales):
        tensors, _ = quantized(f"w{index}", RNG.standard_normal((N, 96), dtype=np.float32), STATIC)
        weights |= tensors | {f"w{index}.input_scale": np.array(scale, np.float32)}
        inputs = ["x", *tensors, "", "", f"w{index}.input_scale"]
        attributes = {"bits": 8, "group_size": 0, "activation": "int8-static"}
        nodes.append(node("QuantizedMatMul", inputs, f"y{index}", **attributes))
    outputs = {f"y{index}": ["B", "S", N] for index in range(len(scales))}
    return graph(nodes, {"x": ["B", "S", 96]}, outputs, weights)


@pytest.mark.parametrize("lowered", [LOWER_QUANTIZED_OPS, LowerStaticInt8ToQDQ()], ids=["ops", "qdq"])
@pytest.mark.parametrize("tokens", [1, 9])
def test_static_int8_activations(lowered: Callable[[ir.Model], None], tokens: int) -> None:
    model = static_layers([0.02, 0.02, 0.05])
    # Values beyond the range of int8 on both sides, and halves, which are rounded to even.
    x = RNG.standard_normal((2, tokens, 96), dtype=np.float32)
    x[0, 0, :4] = [100, -100, 0.05, -0.03]
    expected = run_reference(model, {"x": x})
    for result, scale in zip(expected, (0.02, 0.02, 0.05), strict=True):
        assert np.abs(result).max() > 0
        assert np.abs(x / np.float32(scale)).max() > 128
    lowered(model)
    kinds = ops(model)
    if isinstance(lowered, LowerStaticInt8ToQDQ):
        assert (kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear"), kinds.count("MatMul")) == (2, 2 + 3, 3)
    else:
        assert (kinds.count("QuantizeLinear"), kinds.count("MatMulIntegerToFloat")) == (2, 3)
    for result, truth in zip(run_ort(model, {"x": x}), expected, strict=True):
        np.testing.assert_allclose(result, truth, rtol=1e-4, atol=1e-3)


def test_the_graph_for_tensorrt_is_int8_around_zero() -> None:
    model = static_layers([0.02])
    LowerStaticInt8ToQDQ()(model)
    common.RemoveUnusedNodesPass()(model)
    model.opset_imports.pop("edgekiln")
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    kinds = {node.op_type: node for node in proto.graph.node}
    assert not any(node.domain for node in proto.graph.node)
    assert all(len(kinds[kind].input) == 2 for kind in ("QuantizeLinear", "DequantizeLinear")), "no zero points"
    (attribute,) = kinds["QuantizeLinear"].attribute
    assert (attribute.name, attribute.i) == ("output_dtype", onnx.TensorProto.INT8)
    codes = next(tensor for tensor in proto.graph.initializer if tensor.dims == [96, N])
    assert codes.data_type == onnx.TensorProto.INT8
    x = RNG.standard_normal((2, 3, 96), dtype=np.float32)
    np.testing.assert_allclose(
        onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x})[0], run_ort(model, {"x": x})[0], atol=1e-3
    )


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("k", [32, 64, 96])
def test_gather(bits: int, k: int) -> None:
    tensors, weight = quantized("e", RNG.standard_normal((50, k), dtype=np.float32), grouped(bits, 32))
    nodes = [node("QuantizedGather", ["ids", *tensors], "y", bits=bits, group_size=32)]
    model = graph(nodes, {"ids": ["B", "S"]}, {"y": ["B", "S", k]}, tensors)
    ids = np.array([[0, 49, 7], [7, 1, 48]])
    np.testing.assert_array_equal(run_reference(model, {"ids": ids})[0], weight[ids])
    LOWER_QUANTIZED_OPS(model)
    np.testing.assert_allclose(run_ort(model, {"ids": ids})[0], weight[ids], rtol=1e-6)


def test_a_tied_head_shares_the_bytes_of_the_embedding(tmp_path: Path) -> None:
    tensors, _ = quantized("e", RNG.standard_normal((320, 64), dtype=np.float32), grouped(8, 32))
    nodes = [
        node("QuantizedGather", ["ids", *tensors], "x", bits=8, group_size=32),
        node("QuantizedMatMul", ["x", *tensors], "y", bits=8, group_size=32, activation="none"),
    ]
    model = graph(nodes, {"ids": ["B", "S"]}, {"y": ["B", "S", 320]}, tensors, {"x": ["B", "S", 64]})
    ids = np.array([[3, 5]])
    (expected,) = run_reference(model, {"ids": ids})
    LOWER_QUANTIZED_OPS(model)
    (result,) = run_ort(model, {"ids": ids})
    assert np.abs(result - expected).max() < 0.02 * np.abs(expected).max()
    with WeightsFile(tmp_path, "weights.bin") as weights:
        weights.store(model)
    save_graph(model, tmp_path / "graph.onnx")
    stored = onnx.load(tmp_path / "graph.onnx", load_external_data=False).graph.initializer
    offsets = [
        next(entry.value for entry in tensor.external_data if entry.key == "offset")
        for tensor in stored
        if tensor.external_data and np.prod(tensor.dims) == 320 * 64
    ]
    assert len(offsets) == 2, "in two shapes"
    assert len(set(offsets)) == 1, "in one place"
    size = (tmp_path / "weights.bin").stat().st_size
    assert size < 320 * 64 * 1.5


def with_group_bias(name: str, bits: int, n: int, k: int) -> dict[str, np.ndarray]:
    """A weight of random symmetric codes in groups of 32, each with a bias of the size of its scale."""
    groups = k // 32
    scales = RNG.random((n, groups), dtype=np.float32) + 0.1
    return {
        f"{name}.qweight": RNG.integers(0, 256, (n, k * bits // 8), dtype=np.uint8),
        f"{name}.scales": scales,
        f"{name}.group_bias": scales * RNG.standard_normal((n, groups), dtype=np.float32),
    }


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tokens", [1, 9])
def test_group_bias(bits: int, tokens: int) -> None:
    nodes, weights = [], {}
    for name in "ab":
        tensors = with_group_bias(name, bits, N, 96)
        weights |= tensors
        qweight, scales, group_bias = tensors
        attributes = {"bits": bits, "group_size": 32, "activation": "none"}
        nodes.append(node("QuantizedMatMul", ["x", qweight, scales, "", group_bias], name, **attributes))
    shape = ["B", "S", N]
    model = graph(nodes, {"x": ["B", "S", 96]}, {"a": shape, "b": shape}, weights)
    x = RNG.standard_normal((2, tokens, 96), dtype=np.float32) + 1
    expected = run_reference(model, {"x": x})
    LOWER_QUANTIZED_OPS(model)
    assert ops(model) == ["GroupBiasMatMulNBits"] * 2
    for name, result, truth in zip("ab", run_ort(model, {"x": x}), expected, strict=True):
        codes = weights[f"{name}.qweight"]
        if bits == 4:
            codes = np.stack([codes & 15, codes >> 4], axis=-1)
        parts = (codes.reshape(N, 3, 32) - float(1 << bits - 1)) * weights[f"{name}.scales"][..., None]
        # Activations are quantized in the GEMM, but not in the sums that the bias multiplies.
        step = np.abs(x).reshape(2, tokens, 3, 32).max(axis=-1) / 127
        bound = np.repeat(step, 32, axis=-1) / 2 @ np.abs(parts).reshape(N, -1).T
        assert (np.abs(result - truth) <= bound + 1e-3).all()
        group_bias = np.repeat(weights[f"{name}.group_bias"], 32, axis=1)
        np.testing.assert_allclose(truth, x @ (parts.reshape(N, -1) + group_bias).T, rtol=1e-3, atol=1e-2)


def test_codebook() -> None:
    groups = 3
    tensors = {
        "w.qweight": RNG.integers(0, 256, (N, groups * 32), dtype=np.uint8),
        "w.scales": RNG.random((N, groups), dtype=np.float32),
    }
    attributes = {"bits": 4, "group_size": 64, "activation": "none", "codebook": "nf4"}
    nodes = [node("QuantizedMatMul", ["x", *tensors], "y", **attributes)]
    model = graph(nodes, {"x": ["B", "S", 192]}, {"y": ["B", "S", N]}, tensors)
    x = RNG.standard_normal((2, 3, 192), dtype=np.float32)
    (expected,) = run_reference(model, {"x": x})
    LOWER_QUANTIZED_OPS(model)
    assert ops(model) == ["MatMulBnb4"]
    np.testing.assert_allclose(run_ort(model, {"x": x})[0], expected, atol=1e-4)


@pytest.mark.parametrize("kernels", ["edgekiln", "onnxruntime"])
@pytest.mark.parametrize("tokens", [1, 7, 40, 80])
@pytest.mark.parametrize("name", ["e2m1", "iq4_nl"])
def test_codebook_of_integers(name: Codebook, tokens: int, kernels: KernelsChoice) -> None:
    scheme = Scheme(bits=4, group_size=32, symmetric=True, activation="none", codebook=name)
    tensors, weight = quantized("w", RNG.standard_normal((N, 96), dtype=np.float32), scheme)
    attributes = {"bits": 4, "group_size": 32, "activation": "none", "codebook": name}
    nodes = [node("QuantizedMatMul", ["x", *tensors], "y", **attributes)]
    model = graph(nodes, {"x": ["B", "S", 96]}, {"y": ["B", "S", N]}, tensors)
    x = RNG.standard_normal((2, tokens, 96), dtype=np.float32)
    np.testing.assert_allclose(run_reference(model, {"x": x})[0], x @ weight.T, rtol=1e-4, atol=1e-4)
    LOWER_QUANTIZED_OPS(model)
    assert ops(model) == ["CodebookMatMulNBits"]
    (result,) = session(model, kernels).run(None, {"x": x})
    # Activations are quantized to int8 in blocks, and in a prefill the weight as well.
    step = np.abs(x).reshape(2, tokens, 3, 32).max(axis=-1) / 127
    bound = np.repeat(step, 32, axis=-1) / 2 @ np.abs(weight).T
    if tokens >= 32:
        bound += np.abs(x) @ np.repeat(np.abs(weight).max(axis=1, keepdims=True), 96, axis=1).T / 127
    assert (np.abs(result - x @ weight.T) <= bound + 1e-4).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_bias", [False, True])
def test_gather_of_symmetric_weights(bits: int, group_bias: bool) -> None:
    tensors = with_group_bias("e", bits, 50, 96)
    qweight, scales, offset = tensors
    inputs = ["ids", qweight, scales, "", offset] if group_bias else ["ids", qweight, scales]
    nodes = [node("QuantizedGather", inputs, "y", bits=bits, group_size=32)]
    model = graph(nodes, {"ids": ["B", "S"]}, {"y": ["B", "S", 96]}, tensors)
    ids = np.array([[0, 49, 7], [7, 1, 48]])
    (expected,) = run_reference(model, {"ids": ids})
    LOWER_QUANTIZED_OPS(model)
    np.testing.assert_allclose(run_ort(model, {"ids": ids})[0], expected, rtol=1e-5, atol=1e-5)
