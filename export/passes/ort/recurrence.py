"""Lower the canonical ops of layers with states to CausalConvWithState and LinearAttention of com.microsoft."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export import canonical
from edgekiln.export.functions.define import DOMAIN as ORT_DOMAIN
from edgekiln.export.functions.define import MICROSOFT, add_function
from edgekiln.export.functions.selective_scan import NAME as SELECTIVE_SCAN
from edgekiln.export.functions.selective_scan import selective_scan_function
from edgekiln.export.functions.wkv import NAME as WKV
from edgekiln.export.functions.wkv import wkv_function
from edgekiln.export.passes.common.tensors import (
    attribute,
    constant,
    graph_of,
    input_of,
    inputs_of,
    make,
    name_of,
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
                    _lower_scan(node)
                case "Wkv":
                    add_function(model, wkv_function())
                    attention = make(WKV, inputs_of(node, 5), f"{name_of(node)}.wkv", domain=ORT_DOMAIN, outputs=2)
                    replace_node(node, [attention], attention.outputs)
                case _:
                    continue
            modified = True
        return PassResult(model, modified)


def _lower_conv(node: ir.Node) -> None:
    x, weight, past = inputs_of(node, 3)
    new: list[ir.Node] = []
    squeeze = weight.producer()
    if squeeze is not None and squeeze.op_type == "Squeeze" and len(sizes_of(input_of(squeeze, 0))) == 3:
        weight = input_of(squeeze, 0)  # of a Conv1d
    else:
        axis = constant(graph_of(node), "conv_weight_axis", np.array([1], dtype=np.int64))
        new.append(make("Unsqueeze", [weight, axis], f"{name_of(node)}.weight"))
        weight = new[-1].outputs[0]
    conv = make(
        "CausalConvWithState",
        [x, weight, optional_input(node, 3), past],
        f"{name_of(node)}.conv",
        domain=MICROSOFT,
        outputs=2,
        activation=str(attribute(node, "activation")),
    )
    replace_node(node, [*new, conv], conv.outputs)


def _lower_scan(node: ir.Node) -> None:
    inputs = inputs_of(node, 6)
    channels = size_of(inputs[0], 1)
    scan = make(SELECTIVE_SCAN, inputs, f"{name_of(node)}.scan", domain=ORT_DOMAIN, outputs=2, channels=channels)
    replace_node(node, [scan], scan.outputs)


def _lower_attention(node: ir.Node) -> None:
    graph, name = graph_of(node), name_of(node)
    query, key, value, past = inputs_of(node, 4)
    decay, beta = optional_input(node, 4), optional_input(node, 5)
    groups, key_dim = size_of(key, 2), size_of(key, 3)
    heads, value_dim = size_of(value, 2), size_of(value, 3)
    new: list[ir.Node] = []

    def add(op: str, inputs: list[ir.Value | None], kind: str) -> ir.Value:
        new.append(make(op, inputs, f"{name}.{kind}"))
        return new[-1].outputs[0]

    def sizes(*values: int) -> ir.Value:
        return constant(graph, "sizes." + ".".join(map(str, values)), np.array(values, dtype=np.int64))

    if groups != heads:
        axis = constant(graph, "key_heads_axis", np.array([3], dtype=np.int64))
        repeated = add("Unsqueeze", [key, axis], "key.unsqueezed")
        repeated = add("Expand", [repeated, sizes(1, 1, 1, heads // groups, 1)], "key.repeated")
        key = add("Reshape", [repeated, sizes(0, 0, heads * key_dim)], "key.flat")
    else:
        key = add("Reshape", [key, sizes(0, 0, heads * key_dim)], "key.flat")
    query = add("Reshape", [query, sizes(0, 0, groups * key_dim)], "query.flat")
    flat_value = add("Reshape", [value, sizes(0, 0, heads * value_dim)], "value.flat")
    if decay is not None and len(sizes_of(decay)) == 4:
        decay = add("Reshape", [decay, sizes(0, 0, heads * key_dim)], "decay.flat")
    attention = make(
        "LinearAttention",
        [query, key, flat_value, past, decay, beta],
        f"{name}.attention",
        domain=MICROSOFT,
        outputs=2,
        q_num_heads=groups,
        kv_num_heads=heads,
        update_rule=str(attribute(node, "rule")),
        scale=float(attribute(node, "scale")),
    )
    new.append(attention)
    out = add("Reshape", [attention.outputs[0], sizes(0, 0, heads, value_dim)], "heads")
    replace_node(node, new, [out, attention.outputs[1]])
