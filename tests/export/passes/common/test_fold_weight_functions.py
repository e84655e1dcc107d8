"""Exp and Neg of a weight become weights, also in a row; those of computed values stay."""

import numpy as np
import onnx_ir as ir

from edgekiln.export.passes.common.fold_weight_functions import FoldWeightFunctions
from edgekiln.export.passes.common.tensors import constant, make
from support.graphs import run_reference

LOGARITHMS = np.array([0.5, -1.0, 2.0], dtype=np.float32)


def test_minus_exp_of_a_weight_is_a_weight() -> None:
    x = ir.Value(name="x", shape=ir.Shape([3]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="g")
    weight = constant(graph, "logarithms", LOGARITHMS)
    exp, of_input = make("Exp", [weight], "exp"), make("Exp", [x], "of_input")
    neg = make("Neg", [exp.outputs[0]], "neg")
    product = make("Mul", [neg.outputs[0], of_input.outputs[0]], "product")
    for node in (exp, of_input, neg, product):
        graph.append(node)
    product.outputs[0].type, product.outputs[0].shape = x.type, x.shape
    graph.outputs.append(product.outputs[0])
    model = ir.Model(graph, ir_version=10)
    feeds = {"x": np.array([1.0, 0.0, -1.0], dtype=np.float32)}
    assert FoldWeightFunctions()(model).modified
    assert [node.op_type for node in model.graph] == ["Exp", "Mul"]
    (result,) = run_reference(model, feeds)
    np.testing.assert_allclose(result, -np.exp(LOGARITHMS) * np.exp(feeds["x"]), rtol=1e-6)
    assert not FoldWeightFunctions()(model).modified
