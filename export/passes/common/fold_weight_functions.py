"""Fold Exp and Neg of a weight into the weight, which would be computed in each run otherwise."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.passes.common.tensors import (
    dtype_of,
    graph_of,
    inputs_of,
    is_weight,
    new_initializer,
    replace_node,
    shape_of,
    values_of,
)

_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {"Exp": np.exp, "Neg": np.negative}


class FoldWeightFunctions(InPlacePass):
    """Replace Exp and Neg of an initializer by an initializer; state space models keep -exp(A_log)."""

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in list(model.graph):
            if node.op_type in _FUNCTIONS and node.domain == "" and is_weight(node.inputs[0]):
                _fold(node)
                modified = True
        return PassResult(model, modified)


def _fold(node: ir.Node) -> None:
    (weight,) = inputs_of(node, 1)
    # A copy: the weight may stay in the graph, where a later pass may change its values.
    source = ir.Value(name=weight.name, const_value=weight.const_value)
    name = f"{weight.name}.{node.op_type.lower()}"
    make = partial(_computed, node.op_type, source)
    folded = new_initializer(graph_of(node), name, shape_of(weight), dtype_of(weight), make)
    replace_node(node, [], [folded])


def _computed(op: str, weight: ir.Value) -> np.ndarray:
    return _FUNCTIONS[op](values_of(weight))
