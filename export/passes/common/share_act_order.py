"""Layers whose weights have one column order read one reordered input: query, key and value of an act-order GPTQ."""

import onnx_ir as ir

from edgekiln.export.passes.common.tensors import attribute, is_weight, replace_node, values_of


def share_orders(model: ir.Model) -> None:
    """Merge Gathers of one value along one axis by the same indices, in place."""
    seen: dict[tuple[ir.Value, int, bytes], ir.Value] = {}
    for node in list(model.graph):
        if node.op_type != "Gather" or node.domain or not is_weight(node.inputs[1]):
            continue
        data, indices = node.inputs
        assert data is not None
        assert indices is not None
        if data.is_initializer():
            continue
        key = (data, int(attribute(node, "axis")), values_of(indices).tobytes())
        if key in seen:
            replace_node(node, [], [seen[key]])
        else:
            seen[key] = node.outputs[0]
