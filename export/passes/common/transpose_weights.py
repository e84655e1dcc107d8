"""Transpose(weight) becomes a weight that is written transposed, and MatMul reads it without work at load."""

import numpy as np
import onnx_ir as ir

from edgekiln.export.passes.common.tensors import is_weight, new_initializer, replace_node, shape_of, values_of


def transpose_weights(model: ir.Model) -> None:
    """Fold every Transpose of an initializer, in place."""
    for node in list(model.graph):
        weight = node.inputs[0] if node.inputs else None
        if node.op_type != "Transpose" or not is_weight(weight):
            continue
        assert weight is not None
        assert weight.dtype is not None
        # A tied weight stays in the graph, where a later pass may change its values.
        as_now = ir.Value(name=weight.name, const_value=weight.const_value)
        shape = shape_of(weight)
        perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else tuple(reversed(range(len(shape))))
        value = new_initializer(
            model.graph,
            f"{weight.name}.transposed.{''.join(map(str, perm))}",
            [shape[axis] for axis in perm],
            weight.dtype,
            lambda weight=as_now, perm=perm: np.transpose(values_of(weight), perm),  # type: ignore[misc]
        )
        replace_node(node, [], [value])
