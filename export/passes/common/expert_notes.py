"""What a build says about experts that a target computes for every token."""

import onnx_ir as ir

from edgekiln.export import canonical
from edgekiln.export.passes.common.tensors import input_of, sizes_of

_OPS = frozenset({"ExpertMatMul", "QuantizedExpertMatMul"})


def dense_notes(model: ir.Model, runtime: str) -> list[str]:
    """A note on the products of `model` with chosen experts that `runtime` computes of all experts; none without."""
    nodes = [node for node in model.graph if node.domain == canonical.DOMAIN and node.op_type in _OPS]
    if not nodes:
        return []
    experts, chosen = sizes_of(input_of(nodes[0], 2))[0], sizes_of(input_of(nodes[0], 1))[1]
    return [
        f"{runtime} computes all {experts} experts of a layer for every token, which needs {chosen} of them, in "
        f"{len(nodes)} products with experts: each step reads their whole weights"
    ]
