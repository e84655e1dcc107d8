"""Build the nodes that take the place of one."""

from typing import Any

import numpy as np
import onnx_ir as ir

from edgekiln.export.passes.common.tensors import constant, graph_of, make, name_of, replace_node, size_of


class NewNodes:
    """Nodes in place of `node`, named after it.

    Attributes:
        new: the nodes, in topological order.
    """

    def __init__(self, node: ir.Node) -> None:
        self._node = node
        self._graph = graph_of(node)
        self.new: list[ir.Node] = []

    def add(self, op: str, inputs: list[ir.Value | None], suffix: str, **attributes: Any) -> ir.Value:
        """Add a node, and return its first output; attributes also as in `make`."""
        self.new.append(make(op, inputs, f"{name_of(self._node)}.{suffix}", **attributes))
        return self.new[-1].outputs[0]

    def ints(self, *values: int) -> ir.Value:
        """A constant int64[n]."""
        return constant(self._graph, "ints." + ".".join(map(str, values)), np.array(values, dtype=np.int64))

    def repeated_heads(self, x: ir.Value, heads: int, kind: str) -> ir.Value:
        """x [B, S, G, D] with each head repeated, [B, S, G, heads / G, D]; x itself if it has as many heads."""
        groups = size_of(x, 2)
        if groups == heads:
            return x
        x = self.add("Unsqueeze", [x, self.ints(3)], f"{kind}.unsqueezed")
        return self.add("Expand", [x, self.ints(1, 1, 1, heads // groups, 1)], f"{kind}.repeated")

    def replace(self, *outputs: ir.Value) -> None:
        """Put the nodes in place of the node, and `outputs` of its outputs."""
        replace_node(self._node, self.new, outputs)
