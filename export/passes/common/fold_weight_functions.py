"""Fold Exp and Neg of a weight into the weight, which would be computed in each run otherwise."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.passes.common.fold_weight import fold_weight
from edgekiln.export.passes.common.tensors import inputs_of, is_weight, shape_of

_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {"Exp": np.exp, "Neg": np.negative}


class FoldWeightFunctions(InPlacePass):
    """Replace Exp and Neg of an initializer by an initializer; state space models keep -exp(A_log)."""

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in list(model.graph):
            if node.op_type in _FUNCTIONS and node.domain == "" and is_weight(node.inputs[0]):
                shape = shape_of(inputs_of(node, 1)[0])
                fold_weight(node, node.op_type.lower(), shape, _FUNCTIONS[node.op_type])
                modified = True
        return PassResult(model, modified)
