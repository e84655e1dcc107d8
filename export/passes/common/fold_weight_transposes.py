"""Fold Transpose of a weight into the weight, so that ONNX Runtime does not transpose it when it loads the graph."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.passes.common.fold_weight import fold_weight
from edgekiln.export.passes.common.tensors import inputs_of, is_weight, shape_of


class FoldWeightTransposes(InPlacePass):
    """Replace every Transpose of an initializer by an initializer with transposed values."""

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in list(model.graph):
            if node.op_type == "Transpose" and is_weight(node.inputs[0]):
                _fold(node)
                modified = True
        return PassResult(model, modified)


def _fold(node: ir.Node) -> None:
    shape = shape_of(inputs_of(node, 1)[0])
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else tuple(reversed(range(len(shape))))
    suffix = f"transposed.{''.join(map(str, perm))}"
    fold_weight(node, suffix, [shape[axis] for axis in perm], lambda values: np.transpose(values, perm))
