"""No activation saturates the 16-bit sums of a CPU without VNNI, for any weights."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekiln.calib.formats.per_channel import quantize_per_channel

LARGEST_SUM = 2**15 - 1


def weights(n: int, k: int, seed: int, spread: float) -> torch.Tensor:
    """Rows from nearly constant magnitude (spread 0) to heavy tails."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, k, generator=generator)
    return noise.sign() * noise.abs() ** spread


@given(st.integers(1, 4), st.integers(1, 65), st.integers(0, 2**16), st.sampled_from([0.0, 0.3, 1.0, 3.0]))
@settings(max_examples=60, deadline=None)
def test_no_pair_of_products_exceeds_16_bits(n: int, k: int, seed: int, spread: float) -> None:
    codes = quantize_per_channel(weights(n, k, seed, spread)).codes.numpy().astype(np.int64)
    pairs = np.pad(codes, ((0, 0), (0, k % 2))).reshape(n, -1, 2)
    for first in (0, 255):
        for second in (0, 255):
            assert np.abs(pairs @ np.array([first, second])).max() <= LARGEST_SUM + 1


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_onnxruntime_computes_extreme_activations_exactly(spread: float) -> None:
    quantized = quantize_per_channel(weights(64, 256, 0, spread))
    codes = np.ascontiguousarray(quantized.codes.numpy().T)
    activations = np.random.default_rng(0).choice(np.array([0, 250, 255], dtype=np.uint8), (33, 256))
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, activations.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(codes, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"a": activations})[0], activations.astype(np.int32) @ codes)


def test_the_error_is_far_below_that_of_seven_bits() -> None:
    weight = weights(32, 512, 1, 1.0)
    quantized = quantize_per_channel(weight)
    largest = weight.abs().amax(1, keepdim=True) / 64
    seven_bits = ((weight / largest).round() * largest - weight).square().sum().item()
    assert quantized.squared_error < 0.6 * seven_bits
