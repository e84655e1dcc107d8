"""Replace a node that computes something of a weight alone by a weight."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekiln.export.passes.common.tensors import (
    dtype_of,
    graph_of,
    inputs_of,
    new_initializer,
    replace_node,
    values_of,
)


def fold_weight(
    node: ir.Node, suffix: str, shape: Sequence[int], compute: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
) -> None:
    """Replace `node` by an initializer, whose values are computed when they are read.

    Args:
        node: its only input is an initializer.
        suffix: of the new initializer's name, after that of the weight.
        shape: of its output.
        compute: the values of the output from those of the weight.
    """
    (weight,) = inputs_of(node, 1)
    # A copy: the weight may stay in the graph, where a later pass may change its values.
    source = ir.Value(name=weight.name, const_value=weight.const_value)
    name = f"{weight.name}.{suffix}"
    folded = new_initializer(graph_of(node), name, shape, dtype_of(weight), lambda: compute(values_of(source)))
    replace_node(node, [], [folded])
