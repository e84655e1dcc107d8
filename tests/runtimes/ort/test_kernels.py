"""edgekiln's kernels in ONNX Runtime: when they are used, and each op compared with numpy."""

from typing import get_args

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edgekiln import runtimes
from edgekiln.export import canonical
from edgekiln.export.lower.ort_cpu import LOWER_QUANTIZED_OPS
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.runtimes.ort import kernels as kernels_module
from edgekiln.runtimes.ort.kernels import installed_library, kernel_library
from support import graphs
from support.engines import build
from support.instruction_sets import fills, supported_sets, use

PROMPT = np.arange(150) % 259
# From this many tokens of a sequence on, GEMM requantizes 4-bit weights to 8 bits, with one scale per column and
# segment of K; with AMX it converts them to bfloat16.
PREFILL_TOKENS, SEGMENT = 32, 128


# Ops are tested on every instruction set.
@pytest.fixture(params=supported_sets())
def isa(request, monkeypatch, shared_directory):
    folder = shared_directory / "instruction-sets"
    folder.mkdir(exist_ok=True)
    use(request.param, monkeypatch, folder)
    return request.param


@pytest.fixture
def onnxruntime_logits(engine):
    return runtimes.open(engine, kernels="onnxruntime").score(PROMPT)


def test_they_are_used_by_default(engine, onnxruntime_logits):
    runtime = runtimes.open(engine)
    assert runtime.kernels == installed_library().supported[0]
    logits = runtime.score(PROMPT)
    np.testing.assert_allclose(logits, onnxruntime_logits, atol=1e-4, rtol=0)
    assert not np.array_equal(logits, onnxruntime_logits), "the session used ONNX Runtime's kernels"


def test_they_can_be_disabled(engine):
    assert runtimes.open(engine, kernels="onnxruntime").kernels == "onnxruntime"


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_onnxruntimes_kernels_run_if_the_library_does_not_load(
    engine, onnxruntime_logits, tmp_path, monkeypatch, content
):
    library = tmp_path / "libedgekiln_ops.so"
    if content is not None:
        library.write_bytes(content)
    monkeypatch.setattr(kernels_module, "LIBRARY", library)
    assert kernel_library() is None
    runtime = runtimes.open(engine)
    assert runtime.kernels == "onnxruntime"
    np.testing.assert_array_equal(runtime.score(PROMPT), onnxruntime_logits)


def test_a_graph_that_they_refuse_runs_with_onnxruntimes_kernels(make_engine):
    directory = make_engine()
    for name in ("generate.onnx", "score.onnx"):
        model = onnx.load(directory / name)
        for node in model.graph.node:
            if node.op_type == "GroupQueryAttention":
                node.attribute.append(helper.make_attribute("smooth_softmax", 1))
        onnx.save(model, directory / name)
    runtime = runtimes.open(directory, verify=False)
    assert runtime.kernels == "onnxruntime"
    expected = runtimes.open(directory, kernels="onnxruntime", verify=False).score(PROMPT)
    np.testing.assert_array_equal(runtime.score(PROMPT), expected)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero_points", [True, False])
@pytest.mark.parametrize("scale_type", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (2, 20), (2, 60), (2, 70)])
def test_matmul_nbits(bits, zero_points, scale_type, shape):
    depth, columns, group = 160, 70, 32
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 1 << bits, (columns, depth // group, group), dtype=np.uint8)
    zeros = rng.integers(0, 1 << bits, (columns, depth // group), dtype=np.uint8)
    scales = rng.uniform(0.01, 0.05, (columns, depth // group)).astype(scale_type).astype(np.float32)
    packed = {
        "codes": codes[..., 0::2] | codes[..., 1::2] << 4 if bits == 4 else codes,
        "scales": scales.reshape(-1),
        "zeros": pack_rows(zeros) if bits == 4 else zeros,
    }
    inputs = ["x", "codes", "scales"] + ["zeros"] * zero_points
    node = helper.make_node(
        "MatMulNBits", inputs, ["y"], domain="com.microsoft", K=depth, N=columns, bits=bits, block_size=group
    )
    constants = {name: packed[name] for name in inputs[1:]}
    session = node_session(node, {"x": ["b", "s", depth]}, {"y": ["b", "s", columns]}, constants)
    # Integers with a maximum of 127 in each block of activations, so that quantizing them to int8 is exact.
    x = rng.integers(-126, 127, (*shape, depth)).astype(np.float32)
    x[..., ::group] = 127
    (y,) = session.run(None, {"x": x})
    bias = -scales * (zeros if zero_points else np.float32(1 << bits - 1))
    weight = scales[..., None].astype(np.float64) * codes + bias[..., None]
    if bits == 4 and shape[-1] >= PREFILL_TOKENS and requantizes():
        weight = prefill_weight(codes, scales, bias)
    np.testing.assert_allclose(y, x @ weight.reshape(columns, depth).T, rtol=0, atol=0.05)


def requantizes() -> bool:
    """Whether the q4 prefill GEMM rounds the weights; those of AVX-512 without VNNI and of AVX2 take the codes."""
    return fills("nbits_gemm") and kernel_library().instruction_set not in ("avx512", "avx2")


def prefill_weight(codes: np.ndarray, scales: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The weights that prefill multiplies with, float64 [N, G, group].

    With AMX they are rounded to bfloat16. Otherwise they are requantized to int8, with a scale of 1/127 of the largest
    possible weight per column and segment of K, in fixed-point arithmetic with 8 fractional bits.

    Args:
        codes: 4 bits, uint8 [N, G, group].
        scales: float32 [N, G].
        bias: value of code 0, float32 [N, G].
    """
    if kernel_library().instruction_set == "amx":
        exact = scales[..., None] * codes + bias[..., None]
        return ((exact.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32).astype(np.float64)
    weight = np.empty(codes.shape)
    for first in range(0, codes.shape[1], SEGMENT // codes.shape[2]):
        part = np.s_[:, first : first + SEGMENT // codes.shape[2]]
        ends = np.abs([bias[part], bias[part] + 15 * scales[part]])
        step = ends.max(axis=(0, 2), keepdims=True)[0] / np.float32(127)
        factor, start = np.rint(scales[part] * (256 / step)), np.rint(bias[part] * (256 / step))
        counted = codes[part].astype(np.float64) * factor[..., None] + start[..., None]
        weight[part] = np.floor((counted + 128) / 256) * step[..., None]
    return weight


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", [(1, 1, 576), (3, 40, 70)])
@pytest.mark.parametrize("inputs", [["a", "b", "gamma"], ["a", "b", "gamma", "bias"]])
@pytest.mark.parametrize("outputs", [["y"], ["y", "", "", "sum"]])
def test_skip_rms_norm(shape, inputs, outputs):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, *shape), dtype=np.float32)
    constants = {"gamma": rng.standard_normal(shape[-1], dtype=np.float32)}
    if "bias" in inputs:
        constants["bias"] = rng.standard_normal(shape[-1], dtype=np.float32)
    node = helper.make_node("SkipSimplifiedLayerNormalization", inputs, outputs, domain="com.microsoft", epsilon=1e-5)
    named = [name for name in outputs if name]
    session = node_session(node, dict.fromkeys("ab", shape), dict.fromkeys(named, shape), constants)
    found = dict(zip(named, session.run(None, {"a": a, "b": b}), strict=True))
    total = a.astype(np.float64) + b + constants.get("bias", 0)
    np.testing.assert_allclose(found.get("sum", total), total, atol=1e-5, rtol=0)
    expected = total / np.sqrt(np.square(total).mean(-1, keepdims=True) + 1e-5) * constants["gamma"]
    np.testing.assert_allclose(found["y"], expected, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", [(1, 1, 576), (3, 40, 70)])
def test_rms_norm(shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32)
    gamma = rng.standard_normal(shape[-1], dtype=np.float32)
    node = helper.make_node("SimplifiedLayerNormalization", ["x", "gamma"], ["y"], axis=-1, epsilon=1e-5, stash_type=1)
    session = node_session(node, {"x": shape}, {"y": shape}, {"gamma": gamma})
    expected = x / np.sqrt(np.square(x.astype(np.float64)).mean(-1, keepdims=True) + 1e-5) * gamma
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=1e-5, rtol=0)


def node_session(node, inputs, outputs, constants, kind=onnx.TensorProto.FLOAT) -> ort.InferenceSession:
    """A session of one node with edgekiln's kernels; inputs have the element type `kind`, outputs are float32."""
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(kernel_library().library))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero_points", [True, False])
def test_gather_block_quantized(bits, zero_points):
    rows, width, block = 300, 96, 32
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 1 << bits, (rows, width), dtype=np.uint8)
    zeros = rng.integers(0, 1 << bits, (rows, width // block), dtype=np.uint8)
    constants = {
        "codes": pack_rows(codes).reshape(rows, -1) if bits == 4 else codes,
        "scales": rng.uniform(0.01, 0.05, (rows, width // block)).astype(np.float32),
    }
    if zero_points:
        constants["zeros"] = pack_rows(zeros).reshape(rows, -1) if bits == 4 else zeros
    node = helper.make_node(
        "GatherBlockQuantized",
        ["codes", "indices", "scales", *(["zeros"] if zero_points else [])],
        ["y"],
        domain="com.microsoft",
        **{"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1},
    )
    session = node_session(
        node, {"indices": ["B", "S"]}, {"y": ["B", "S", width]}, constants, kind=onnx.TensorProto.INT64
    )
    zero_point = zeros if zero_points else np.full_like(zeros, 1 << (bits - 1))
    distance = codes.astype(np.float32) - np.repeat(zero_point, block, axis=1)
    table = distance * np.repeat(constants["scales"], block, axis=1)
    indices = rng.integers(-rows, rows, (2, 40))
    np.testing.assert_array_equal(session.run(None, {"indices": indices})[0], table[indices])
    with pytest.raises(Exception, match="index 300 is not one of 300 rows"):
        session.run(None, {"indices": np.full((1, 1), rows)})


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("bias_type", [np.float32, np.float16])
@pytest.mark.parametrize("tokens", [1, 20, 60, 70])
def test_group_bias_matmul_is_not_inlined(tmp_path, tokens, bias_type):
    rng = np.random.default_rng(0)
    weights = {
        "w.qweight": rng.integers(0, 256, (70, 80), dtype=np.uint8),
        "w.scales": rng.uniform(0.01, 0.05, (70, 5)).astype(bias_type).astype(np.float32),
    }
    bias = rng.standard_normal((70, 5)).astype(bias_type).astype(np.float32)
    weights["w.group_bias"] = bias + 8 * weights["w.scales"]
    attributes = {"bits": 4, "group_size": 32, "activation": "none"}
    nodes = [graphs.node("QuantizedMatMul", ["x", "w.qweight", "w.scales", "", "w.group_bias"], "y", **attributes)]
    model = graphs.graph(nodes, {"x": ["B", "S", 160]}, {"y": ["B", "S", 70]}, weights)
    x = rng.integers(-126, 127, (2, tokens, 160)).astype(np.float32)
    x[..., ::32] = 127
    (expected,) = graphs.run_reference(model, {"x": x})
    if tokens >= PREFILL_TOKENS and requantizes():
        codes = np.stack([weights["w.qweight"] & 15, weights["w.qweight"] >> 4], axis=-1).reshape(70, 5, 32)
        expected = x @ prefill_weight(codes, weights["w.scales"], bias).reshape(70, 160).T
    LOWER_QUANTIZED_OPS(model)
    del model.opset_imports[canonical.DOMAIN]
    model.opset_imports["com.microsoft"] = 1
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(kernel_library().library))
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=0, atol=0.05)
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert [node.op_type for node in optimized.graph.node] == ["GroupBiasMatMulNBits"]


def codebook_matmul() -> tuple[ir.Model, np.ndarray, np.ndarray]:
    """A lowered product of x float [2, 3, 160] with codes of IQ4_NL, x, and the result in numpy."""
    rng = np.random.default_rng(0)
    weights = {
        "w.qweight": rng.integers(0, 256, (70, 80), dtype=np.uint8),
        "w.scales": rng.uniform(0.001, 0.005, (70, 5)).astype(np.float32),
    }
    attributes = {"bits": 4, "group_size": 32, "activation": "none", "codebook": "iq4_nl"}
    nodes = [graphs.node("QuantizedMatMul", ["x", *weights], "y", **attributes)]
    model = graphs.graph(nodes, {"x": ["B", "S", 160]}, {"y": ["B", "S", 70]}, weights)
    x = rng.integers(-126, 127, (2, 3, 160)).astype(np.float32)
    x[..., ::32] = 127
    (expected,) = graphs.run_reference(model, {"x": x})
    LOWER_QUANTIZED_OPS(model)
    del model.opset_imports[canonical.DOMAIN]
    model.opset_imports["com.microsoft"] = 1
    return model, x, expected


@pytest.mark.usefixtures("isa")
def test_codebook_matmul_is_not_inlined(tmp_path):
    """Where the instruction set has packed weights."""
    model, x, expected = codebook_matmul()
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(kernel_library().library))
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=0, atol=0.05)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds == ["CodebookMatMulNBits" if fills("nbits_gemm") else "MatMulNBits"]


def test_without_kernels_codes_of_a_codebook_become_8_bits_once(tmp_path):
    model, x, expected = codebook_matmul()
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=0, atol=0.05)
    (node,) = onnx.load(tmp_path / "optimized.onnx").graph.node
    assert node.op_type == "MatMulNBits"
    assert {attribute.name: attribute.i for attribute in node.attribute}["bits"] == 8


@pytest.mark.usefixtures("isa")
def test_per_token_int8_matmul_is_not_inlined(tmp_path):
    """Where the instruction set has the kernel."""
    rng = np.random.default_rng(0)
    weights = {
        "w.qweight": rng.integers(-127, 128, (70, 160), dtype=np.int8),
        "w.scales": rng.uniform(0.01, 0.05, 70).astype(np.float32),
    }
    attributes = {"bits": 8, "group_size": 0, "activation": "int8-per-token"}
    nodes = [graphs.node("QuantizedMatMul", ["x", *weights], "y", **attributes)]
    model = graphs.graph(nodes, {"x": ["B", "S", 160]}, {"y": ["B", "S", 70]}, weights)
    x = rng.standard_normal((2, 20, 160)).astype(np.float32)
    LOWER_QUANTIZED_OPS(model)
    expected = graphs.session(model).run(None, {"x": x})[0]
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(kernel_library().library))
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    # Rounding activations to int8 may differ by one where the quotient is near a half.
    step = np.abs(x).max(axis=-1, keepdims=True) * weights["w.scales"]
    assert (np.abs(session.run(None, {"x": x})[0] - expected) <= 2 * step).all()
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert (kinds == ["PerTokenInt8MatMul"]) == fills("per_token_int8_gemm")


def pack_rows(codes: np.ndarray) -> np.ndarray:
    """Pack 4-bit codes [N, G] two per byte, low nibble first; an odd G is padded."""
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return np.ascontiguousarray(even[:, 0::2] | even[:, 1::2] << 4)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("quant", ["int4", "int8"])
def test_projections_with_bias_and_with_norms(tmp_path, family, quant):
    engine = build(tmp_path, family, quant)
    runtime, other = (runtimes.open(engine, kernels=kernels) for kernels in get_args(KernelsChoice))
    assert runtime.kernels != "onnxruntime"
    assert runtime.max_verify_tokens > 1
    expected, cache = other.new_cache(), runtime.new_cache()
    prompt = PROMPT[:20]
    # Both round activations, but at different points. Random logits have a standard deviation of about 2.
    np.testing.assert_allclose(runtime.prefill(cache, 0, prompt), other.prefill(expected, 0, prompt), atol=0.4, rtol=0)
    for token in (5, 6):
        logits, same = (r.step(c, np.array([token])) for r, c in ((runtime, cache), (other, expected)))
        np.testing.assert_allclose(logits, same, atol=0.4, rtol=0)
