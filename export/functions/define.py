"""Define ONNX functions of the domain `edgekiln.ort`, which edgekiln's kernels compute in one call.

ONNX Runtime inlines a model's function unless a kernel of that name is registered, so graphs with these functions run
with and without edgekiln's kernels.
"""

from collections.abc import Collection, Sequence
from typing import Final

import onnx
import onnx_ir as ir
from onnx import helper
from onnx_ir.passes import InPlacePass, PassResult, common

from edgekiln.export import canonical

DOMAIN: Final = "edgekiln.ort"
MICROSOFT: Final = "com.microsoft"


def define(
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    nodes: Sequence[onnx.NodeProto],
    attributes: Sequence[str] = (),
) -> ir.Function:
    """A function of the domain.

    Args:
        name, inputs, outputs, attributes: names.
        nodes: standard ops, ops of com.microsoft and functions of the domain, in topological order.
    """
    opsets = [
        helper.make_opsetid("", canonical.OPSET),
        helper.make_opsetid(MICROSOFT, 1),
        helper.make_opsetid(DOMAIN, 1),
    ]
    function = helper.make_function(DOMAIN, name, inputs, outputs, nodes, opsets, attributes)
    return ir.serde.deserialize_function(function)


def with_ref_attributes(node: onnx.NodeProto, kind: int, **names: str) -> onnx.NodeProto:
    """Give `node` attributes that refer to the function's own.

    Args:
        node: a node of a function; it is changed and returned.
        kind: type of the attributes, `onnx.AttributeProto.INT` and so on.
        names: the node's attribute -> the function's attribute.
    """
    node.attribute.extend(
        onnx.AttributeProto(name=name, ref_attr_name=outer, type=kind)  # type: ignore[arg-type]
        for name, outer in names.items()
    )
    return node


def copied(node: ir.Node, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    """A copy of a graph's node for a function, with other inputs and outputs."""
    copy = helper.make_node(node.op_type, inputs, outputs, domain=node.domain)
    copy.attribute.extend(ir.serde.serialize_attribute(value) for value in node.attributes.values())
    return copy


def add_function(model: ir.Model, function: ir.Function) -> None:
    """Add a function to `model`, unless it has one of that name."""
    model.functions.setdefault(function.identifier(), function)
    model.opset_imports[DOMAIN] = 1


class InlineFunctions(InPlacePass):
    """Inline every call of the domain's functions of these names.

    Args:
        names: names of the functions.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._names = frozenset(names)

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        return common.InlinePass(criteria=self._is_named)(model)

    def _is_named(self, function: ir.Function) -> bool:
        return function.domain == DOMAIN and function.name in self._names
