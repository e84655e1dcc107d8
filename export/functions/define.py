"""Functions of ONNX Runtime's ops that edgekiln's native kernels do in one piece.

Called as an op of the domain `edgekiln.ort`, a model's own function is written out by ONNX Runtime unless a kernel of
that name is registered. So a graph that calls one runs everywhere.
"""

from collections.abc import Collection, Sequence

import onnx
import onnx_ir as ir
from onnx import helper
from onnx_ir.passes import common

from edgekiln.export import canonical

DOMAIN = "edgekiln.ort"


def define(
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    nodes: Sequence[onnx.NodeProto],
    attributes: Sequence[str] = (),
) -> ir.Function:
    """A function of the domain, of standard ops, those of com.microsoft and other functions of the domain."""
    opsets = [
        helper.make_opsetid("", canonical.OPSET),
        helper.make_opsetid("com.microsoft", 1),
        helper.make_opsetid(DOMAIN, 1),
    ]
    function = helper.make_function(DOMAIN, name, inputs, outputs, nodes, opsets, attributes)
    return ir.serde.deserialize_function(function)


def handed_on(node: onnx.NodeProto, kind: int, **names: str) -> onnx.NodeProto:
    """`node` with attributes of that kind, each of which is the function's attribute of the name given for it."""
    node.attribute.extend(
        onnx.AttributeProto(name=name, ref_attr_name=outer, type=kind)  # type: ignore[arg-type]
        for name, outer in names.items()
    )
    return node


def declare(model: ir.Model, function: ir.Function) -> None:
    """Give `model` the function, if it has none of that name yet."""
    model.functions.setdefault(function.identifier(), function)
    model.opset_imports[DOMAIN] = 1


def write_out(model: ir.Model, names: Collection[str]) -> None:
    """Put what the domain's functions of these names are made of where they are called, in place."""
    common.InlinePass(criteria=lambda function: function.domain == DOMAIN and function.name in names)(model)
