import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import pack_int4


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=9), elements=st.integers(0, 15))
)
def test_pack_int4_puts_even_columns_in_the_low_nibble(codes: np.ndarray) -> None:
    packed = pack_int4(codes)
    assert packed.dtype == np.uint8
    unpacked = np.stack([packed % 16, packed // 16], axis=-1).reshape(*codes.shape[:-1], -1)
    np.testing.assert_array_equal(unpacked[..., : codes.shape[-1]], codes)
    assert not unpacked[..., codes.shape[-1] :].any()


def test_pack_int4_refuses_wider_codes() -> None:
    with pytest.raises(ValueError, match=r"0\.\.16"):
        pack_int4(np.array([[0, 16]], dtype=np.uint8))


@pytest.mark.parametrize("columns", [96, 128])
def test_onnxruntime_dequantizes_the_packed_weight_alike(columns: int) -> None:
    weight = torch.randn(24, columns, generator=torch.Generator().manual_seed(0))
    quantized = quantize(weight, Scheme(4, 32, False, "none"))
    assert quantized.zero_points is not None
    arrays = {
        "b": pack_int4(quantized.codes).reshape(24, columns // 32, 16),
        "s": quantized.scales,
        "z": pack_int4(quantized.zero_points),
    }
    node = helper.make_node(
        "MatMulNBits", ["x", "b", "s", "z"], ["y"], domain="com.microsoft", K=columns, N=24, bits=4, block_size=32
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 24])],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"x": np.eye(columns, dtype=np.float32)})
    np.testing.assert_allclose(product.T, quantized.dequantize(), atol=1e-6)
