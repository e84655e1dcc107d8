"""Functions of ONNX Runtime's ops that edgekiln's native kernels do in one piece.

Called as an op of the domain `edgekiln.ort`, a model's own function is written out by ONNX Runtime unless a kernel of
that name is registered. So a graph that calls one runs everywhere.
"""

from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx import helper

from edgekiln.export import canonical

DOMAIN = "edgekiln.ort"


def define(
    name: str, inputs: Sequence[str], output: str, nodes: Sequence[onnx.NodeProto], attributes: Sequence[str] = ()
) -> ir.Function:
    """A function of the domain, of standard ops and those of com.microsoft."""
    opsets = [helper.make_opsetid("", canonical.OPSET), helper.make_opsetid("com.microsoft", 1)]
    function = helper.make_function(DOMAIN, name, inputs, [output], nodes, opsets, attributes)
    return ir.serde.deserialize_function(function)


def declare(model: ir.Model, function: ir.Function) -> None:
    """Give `model` the function, if it has none of that name yet."""
    model.functions.setdefault(function.identifier(), function)
    model.opset_imports[DOMAIN] = 1
