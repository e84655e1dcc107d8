"""SelectiveScan: the state space model of Mamba, as gated linear attention with one head a channel."""

from typing import Final

import onnx
import onnx_ir as ir
from onnx import helper

from edgekiln.export.functions.define import MICROSOFT, define, with_ref_attributes

NAME: Final = "SelectiveScan"


def selective_scan_function() -> ir.Function:
    """The op of `edgekiln.export.recurrent_ops.selective_scan`.

    A channel is a head with values of one element and keys of N: its state decays by exp(step · a), each element by
    itself, gains step · x · b, and is read by c.

    Inputs: x, step float [B, C, S]; a [C, N]; b, c [B, N, S]; past [B, C, N]. Outputs: y [B, C, S], present [B, C, N].
    Attribute: channels, C.
    """
    integers = {"last": [-1], "channel_axis": [2], "state_axis": [3], "flat": [0, 0, -1]}
    nodes = [helper.make_node("Constant", [], [name], value_ints=value) for name, value in integers.items()]
    nodes += [
        helper.make_node("Transpose", ["c"], ["query"], perm=[0, 2, 1]),
        helper.make_node("Transpose", ["step"], ["step_by_token"], perm=[0, 2, 1]),
        helper.make_node("Unsqueeze", ["step_by_token", "last"], ["step_by_state"]),
        helper.make_node("Mul", ["step_by_state", "a"], ["decay_by_state"]),
        helper.make_node("Reshape", ["decay_by_state", "flat"], ["decay"]),
        helper.make_node("Transpose", ["b"], ["b_by_token"], perm=[0, 2, 1]),
        helper.make_node("Unsqueeze", ["b_by_token", "channel_axis"], ["b_of_channel"]),
        helper.make_node("Shape", ["decay_by_state"], ["sizes"]),
        helper.make_node("Expand", ["b_of_channel", "sizes"], ["key_by_channel"]),
        helper.make_node("Reshape", ["key_by_channel", "flat"], ["key"]),
        helper.make_node("Mul", ["step", "x"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["value"], perm=[0, 2, 1]),
        helper.make_node("Unsqueeze", ["past", "state_axis"], ["past_by_head"]),
    ]
    attention = helper.make_node(
        "LinearAttention",
        ["query", "key", "value", "past_by_head", "decay"],
        ["y_by_token", "present_by_head"],
        domain=MICROSOFT,
        q_num_heads=1,
        update_rule="gated",
        scale=1.0,
    )
    nodes += [
        with_ref_attributes(attention, onnx.AttributeProto.INT, kv_num_heads="channels"),
        helper.make_node("Transpose", ["y_by_token"], ["y"], perm=[0, 2, 1]),
        helper.make_node("Squeeze", ["present_by_head", "state_axis"], ["present"]),
    ]
    return define(NAME, ["x", "step", "a", "b", "c", "past"], ["y", "present"], nodes, ["channels"])
