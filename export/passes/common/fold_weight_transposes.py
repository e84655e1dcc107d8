"""Fold Transpose of a weight into the weight, so that ONNX Runtime does not transpose it when it loads the graph."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.passes.common.tensors import (
    dtype_of,
    inputs_of,
    is_weight,
    new_initializer,
    replace_node,
    shape_of,
    values_of,
)


class FoldWeightTransposes(InPlacePass):
    """Replace every Transpose of an initializer by an initializer with transposed values."""

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in list(model.graph):
            if node.op_type == "Transpose" and is_weight(node.inputs[0]):
                _fold(model.graph, node)
                modified = True
        return PassResult(model, modified)


def _fold(graph: ir.Graph, node: ir.Node) -> None:
    (weight,) = inputs_of(node, 1)
    # A copy: a tied weight stays in the graph, where a later pass may change its values.
    source = ir.Value(name=weight.name, const_value=weight.const_value)
    shape = shape_of(weight)
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else tuple(reversed(range(len(shape))))
    transposed = new_initializer(
        graph,
        f"{weight.name}.transposed.{''.join(map(str, perm))}",
        [shape[axis] for axis in perm],
        dtype_of(weight),
        lambda: np.transpose(values_of(source), perm),
    )
    replace_node(node, [], [transposed])
