"""Lower the canonical ops of layers with states to CausalConvWithState and LinearAttention of com.microsoft."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export import canonical
from edgekiln.export.functions.define import DOMAIN as ORT_DOMAIN
from edgekiln.export.functions.define import MICROSOFT, add_function
from edgekiln.export.functions.selective_scan import NAME as SELECTIVE_SCAN
from edgekiln.export.functions.selective_scan import selective_scan_function
from edgekiln.export.functions.wkv import NAME as WKV
from edgekiln.export.functions.wkv import wkv_function
from edgekiln.export.passes.common.new_nodes import NewNodes
from edgekiln.export.passes.common.tensors import (
    attribute,
    input_of,
    inputs_of,
    optional_input,
    replace_node,
    size_of,
    sizes_of,
)


class LowerRecurrence(InPlacePass):
    """Lower the ops of `edgekiln.export.recurrent_ops`.

    Cases:
        1. MaskPadding: removed, since runs of these runtimes have no padding;
        2. CausalConv: CausalConvWithState, whose weight has an axis more;
        3. LinearAttention: LinearAttention of com.microsoft on flattened heads. It shares queries among the heads of
           values, but not keys, which are repeated;
        4. SelectiveScan and Wkv: functions.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in list(model.graph):
            if node.domain != canonical.DOMAIN:
                continue
            match node.op_type:
                case "MaskPadding":
                    replace_node(node, [], [input_of(node, 0)])
                case "CausalConv":
                    _lower_conv(node)
                case "LinearAttention":
                    _lower_attention(node)
                case "SelectiveScan":
                    add_function(model, selective_scan_function())
                    _call(node, SELECTIVE_SCAN, 6, channels=size_of(input_of(node, 0), 1))
                case "Wkv":
                    add_function(model, wkv_function())
                    _call(node, WKV, 5)
                case _:
                    continue
            modified = True
        return PassResult(model, modified)


def _lower_conv(node: ir.Node) -> None:
    x, weight, past = inputs_of(node, 3)
    nodes = NewNodes(node)
    squeeze = weight.producer()
    if squeeze is not None and squeeze.op_type == "Squeeze" and len(sizes_of(input_of(squeeze, 0))) == 3:
        weight = input_of(squeeze, 0)  # of a Conv1d
    else:
        weight = nodes.add("Unsqueeze", [weight, nodes.ints(1)], "weight")
    nodes.add(
        "CausalConvWithState",
        [x, weight, optional_input(node, 3), past],
        "conv",
        domain=MICROSOFT,
        outputs=2,
        activation=str(attribute(node, "activation")),
    )
    nodes.replace(*nodes.new[-1].outputs)


def _call(node: ir.Node, function: str, inputs: int, **attributes: int) -> None:
    nodes = NewNodes(node)
    nodes.add(function, [*inputs_of(node, inputs)], "scan", domain=ORT_DOMAIN, outputs=2, **attributes)
    nodes.replace(*nodes.new[-1].outputs)


def _lower_attention(node: ir.Node) -> None:
    query, key, value, past = inputs_of(node, 4)
    decay, beta = optional_input(node, 4), optional_input(node, 5)
    groups, key_dim = size_of(key, 2), size_of(key, 3)
    heads, value_dim = size_of(value, 2), size_of(value, 3)
    nodes = NewNodes(node)

    def flat(x: ir.Value, width: int, kind: str) -> ir.Value:
        return nodes.add("Reshape", [x, nodes.ints(0, 0, width)], f"{kind}.flat")

    if decay is not None and len(sizes_of(decay)) == 4:
        decay = flat(decay, heads * key_dim, "decay")
    out = nodes.add(
        "LinearAttention",
        [
            flat(query, groups * key_dim, "query"),
            flat(nodes.repeated_heads(key, heads, "key"), heads * key_dim, "key"),
            flat(value, heads * value_dim, "value"),
            *(past, decay, beta),
        ],
        "attention",
        domain=MICROSOFT,
        outputs=2,
        q_num_heads=groups,
        kv_num_heads=heads,
        update_rule=str(attribute(node, "rule")),
        scale=float(attribute(node, "scale")),
    )
    present = nodes.new[-1].outputs[1]
    nodes.replace(nodes.add("Reshape", [out, nodes.ints(0, 0, heads, value_dim)], "heads"), present)
