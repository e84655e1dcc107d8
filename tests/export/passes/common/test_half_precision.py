"""Which values stay float32 in a half-precision graph."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.passes.common.half_precision import HALF_TYPES, ConvertToHalf
from support.graphs import graph, node, standard_session

RNG = np.random.default_rng(0)
WIDTH = 16


def half(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], dtype: str = "float16") -> ir.Model:
    model = graph(nodes, {"x": ["B", WIDTH]}, {"y": ["B", WIDTH]}, weights)
    model.opset_imports.pop("edgekiln", None)
    ConvertToHalf(HALF_TYPES[dtype])(model)
    return model


def types(model: ir.Model, op: str) -> set[ir.DataType | None]:
    return {
        value.dtype for n in model.graph if n.op_type == op for value in (*n.inputs, *n.outputs) if value is not None
    }


def test_weights_inputs_and_matmuls_are_half_and_logits_are_not() -> None:
    weight = RNG.standard_normal((WIDTH, WIDTH), dtype=np.float32)
    model = half([node("MatMul", ["x", "w"], "y")], {"w": weight})
    assert types(model, "MatMul") == {ir.DataType.FLOAT16}
    assert model.graph.inputs[0].dtype == ir.DataType.FLOAT16
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT
    x = RNG.standard_normal((3, WIDTH)).astype(np.float16)
    (y,) = standard_session(model).run(None, {"x": x})
    np.testing.assert_allclose(y, x.astype(np.float32) @ weight, atol=0.05)


def test_angles_are_computed_in_float32() -> None:
    frequencies = np.linspace(1, 1e-4, WIDTH, dtype=np.float32)
    nodes = [
        node("Cast", ["ids"], "positions", to=onnx.TensorProto.FLOAT),
        node("Mul", ["positions", "frequencies"], "angles"),
        node("Cos", ["angles"], "cosine"),
        node("Mul", ["x", "cosine"], "y"),
    ]
    model = graph(nodes, {"x": ["B", WIDTH], "ids": ["B", 1]}, {"y": ["B", WIDTH]}, {"frequencies": frequencies})
    model.opset_imports.pop("edgekiln", None)
    ConvertToHalf(ir.DataType.FLOAT16)(model)
    assert types(model, "Cos") == {ir.DataType.FLOAT}
    assert model.graph.initializers["frequencies"].dtype == ir.DataType.FLOAT
    # float16 cannot represent 8191: the angle would be off by more than a radian.
    (y,) = standard_session(model).run(None, {"x": np.ones((1, WIDTH), np.float16), "ids": np.array([[8191]])})
    np.testing.assert_allclose(y[0], np.cos(np.float32(8191) * frequencies), atol=1e-3)


def test_squares_beyond_the_range_survive() -> None:
    nodes = [
        node("Pow", ["x", "two"], "squares"),
        node("ReduceMean", ["squares", "axis"], "mean", keepdims=1),
        node("Sqrt", ["mean"], "root"),
        node("Div", ["x", "root"], "y"),
    ]
    model = half(nodes, {"two": np.array(2, np.float32), "axis": np.array([-1])})
    x = np.full((2, WIDTH), 1000, np.float16)
    (y,) = standard_session(model).run(None, {"x": x})
    np.testing.assert_allclose(y, 1, atol=1e-3)


def test_a_weight_beyond_float16_is_named_with_the_fix() -> None:
    weight = np.full((WIDTH, WIDTH), 1e5, np.float32)
    model = half([node("MatMul", ["x", "w"], "y")], {"w": weight})
    with pytest.raises(UnsupportedModelError, match=r"^w holds values beyond 65504: build with --dtype bfloat16$"):
        model.graph.initializers["w"].const_value.numpy()


def test_bfloat16_holds_large_weights() -> None:
    weight = np.full((WIDTH, WIDTH), 1e5, np.float32)
    model = half([node("MatMul", ["x", "w"], "y")], {"w": weight}, "bfloat16")
    stored = model.graph.initializers["w"]
    assert stored.dtype == ir.DataType.BFLOAT16
    np.testing.assert_allclose(stored.const_value.numpy().astype(np.float32), weight, rtol=0.01)


def test_an_earlier_clone_keeps_its_types() -> None:
    model = graph(
        [node("MatMul", ["x", "w"], "y")],
        {"x": ["B", WIDTH]},
        {"y": ["B", WIDTH]},
        {"w": np.eye(WIDTH, dtype=np.float32)},
    )
    clone = model.clone()
    ConvertToHalf(ir.DataType.FLOAT16)(model)
    assert {value.dtype for value in (clone.graph.inputs[0], clone.graph.initializers["w"])} == {ir.DataType.FLOAT}
