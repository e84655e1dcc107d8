"""Lower the canonical ops of layers with states to standard ops: Conv, and a Scan over the tokens."""

from typing import Any, Final, cast

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, common

from edgekiln.export import canonical
from edgekiln.export.functions.define import DOMAIN, add_function
from edgekiln.export.functions.linear_attention import (
    SELECTIVE_SCAN,
    linear_attention_function,
    linear_attention_name,
    selective_scan_by_token_function,
)
from edgekiln.export.functions.wkv import NAME as WKV
from edgekiln.export.functions.wkv import wkv_function
from edgekiln.export.passes.common.new_nodes import NewNodes
from edgekiln.export.passes.common.tensors import (
    attribute,
    constant,
    graph_of,
    inputs_of,
    make,
    name_of,
    optional_input,
    shape_of,
    size_of,
    sizes_of,
)
from edgekiln.export.recurrent_ops import UpdateRule


class LowerRecurrenceToOnnx(InPlacePass):
    """Lower the ops of `edgekiln.export.recurrent_ops` to standard ops.

    LinearAttention and CausalConvWithState of opset 27 would do, but TensorRT takes them from plugins that it does not
    have.

    Cases:
        1. MaskPadding: removed if runs have no padding, otherwise Where;
        2. CausalConv: Conv of past and new columns;
        3. LinearAttention, SelectiveScan and Wkv: a Scan over the tokens.

    Args:
        padded: the sequences of a batch are aligned at their last token.
    """

    def __init__(self, padded: bool) -> None:
        super().__init__()
        self._padded = padded

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        nodes = [node for node in model.graph if node.domain == canonical.DOMAIN and node.op_type in _LOWERINGS]
        for node in nodes:
            _LOWERINGS[node.op_type](model, node, self._padded)
        if nodes:
            for function in model.functions.values():
                # The ops of the bodies are the same in the opset that attention may need.
                function.opset_imports[""] = model.opset_imports[""]
            common.InlinePass()(model)
            model.opset_imports.pop(DOMAIN, None)
        return PassResult(model, bool(nodes))


def _sized_as(nodes: NewNodes, model: ir.Value, value: ir.Value) -> ir.Value:
    """`value` with the sizes of `model`, which TensorRT does not infer through Conv and Scan."""
    return nodes.add("Reshape", [value, nodes.add("Shape", [model], "sizes")], "sized")


def _mask(_: ir.Model, node: ir.Node, padded: bool) -> None:
    x, positions = inputs_of(node, 2)
    nodes = NewNodes(node)
    if not padded:
        nodes.replace(x)
        return
    length = nodes.add("Shape", [x], "length", start=1, end=2)
    graph = graph_of(node)
    zero, one = (constant(graph, f"int.{value}", np.array(value, dtype=np.int64)) for value in (0, 1))
    scalar = nodes.add("Squeeze", [length], "length_scalar")
    last_token = nodes.add("Sub", [scalar, one], "last_token")
    left = nodes.add("Sub", [last_token, nodes.add("Range", [zero, scalar, one], "token")], "left")
    end = nodes.ints(np.iinfo(np.int64).max)
    last = nodes.add("Slice", [positions, nodes.ints(-1), end, nodes.ints(1)], "last_position")
    padding = nodes.add("Less", [last, left], "padding")
    rank = len(sizes_of(x))
    padding = nodes.add("Unsqueeze", [padding, nodes.ints(*range(2, rank))], "padding_by_element")
    nothing = constant(graph, "padding_value", np.array(0, dtype=np.float32))
    nodes.replace(nodes.add("Where", [padding, nothing, x], "masked"))


def _conv(_: ir.Model, node: ir.Node, __: bool) -> None:
    x, weight, past = inputs_of(node, 3)
    channels, width = shape_of(weight)
    nodes = NewNodes(node)
    columns = nodes.add("Concat", [past, x], "columns", axis=2)
    kernel = nodes.add("Unsqueeze", [weight, nodes.ints(1)], "kernel")
    out = _sized_as(nodes, x, nodes.add("Conv", [columns, kernel, optional_input(node, 3)], "conv", group=channels))
    if attribute(node, "activation") == "silu":
        out = nodes.add("Mul", [out, nodes.add("Sigmoid", [out], "sigmoid")], "silu")
    starts, ends, axes = nodes.ints(1 - width), nodes.ints(np.iinfo(np.int64).max), nodes.ints(2)
    nodes.replace(out, nodes.add("Slice", [columns, starts, ends, axes], "present"))


def _linear_attention(model: ir.Model, node: ir.Node, _: bool) -> None:
    query, key, value, past = inputs_of(node, 4)
    decay, beta = optional_input(node, 4), optional_input(node, 5)
    heads, nodes = size_of(value, 2), NewNodes(node)

    def by_value_head(x: ir.Value, kind: str) -> ir.Value:
        repeated = nodes.repeated_heads(x, heads, kind)
        if repeated is x:
            return x
        return nodes.add("Reshape", [repeated, nodes.ints(0, 0, heads, size_of(x, 3))], f"{kind}.by_value_head")

    rule = cast(UpdateRule, attribute(node, "rule"))
    by_row = decay is not None and len(sizes_of(decay)) == 4
    add_function(model, linear_attention_function(rule, by_row))
    inputs = [by_value_head(query, "query"), by_value_head(key, "key"), value, past]
    inputs += [extra for extra in (decay, beta) if extra is not None]
    scan = make(linear_attention_name(rule, by_row), inputs, f"{name_of(node)}.scan", domain=DOMAIN, outputs=2)
    nodes.new.append(scan)
    out = _sized_as(nodes, value, scan.outputs[0])
    if (scale := float(attribute(node, "scale"))) != 1:
        factor = constant(graph_of(node), f"attention_scale.{scale}", np.array(scale, dtype=np.float32))
        out = nodes.add("Mul", [out, factor], "scaled")
    nodes.replace(out, scan.outputs[1])


def _function(name: str, function: Any, count: int) -> Any:
    def lower(model: ir.Model, node: ir.Node, _: bool) -> None:
        add_function(model, function())
        inputs, nodes = inputs_of(node, count), NewNodes(node)
        call = make(name, inputs, f"{name_of(node)}.scan", domain=DOMAIN, outputs=2)
        nodes.new.append(call)
        nodes.replace(_sized_as(nodes, inputs[0], call.outputs[0]), call.outputs[1])

    return lower


_LOWERINGS = {
    "MaskPadding": _mask,
    "CausalConv": _conv,
    "LinearAttention": _linear_attention,
    "SelectiveScan": _function(SELECTIVE_SCAN, selective_scan_by_token_function, 6),
    "Wkv": _function(WKV, wkv_function, 5),
}
RECURRENT_OPS: Final = frozenset(_LOWERINGS)
