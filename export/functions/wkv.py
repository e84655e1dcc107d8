"""Wkv: the attention of RWKV-4, as a Scan over the tokens."""

from typing import Final

import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from edgekiln.export.functions.define import define

NAME: Final = "Wkv"
_LEAST: Final = -1e38  # maximum of an empty state


def wkv_function() -> ir.Function:
    """The op of `edgekiln.export.recurrent_ops.wkv`.

    Inputs: key, value float [B, S, C]; decay, bonus [C]; past [B, 3, C]. Outputs: y [B, S, C], present [B, 3, C].
    """
    nodes = [
        helper.make_node("Constant", [], ["one"], value_ints=[1]),
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Constant", [], ["least"], value_float=_LEAST),
        helper.make_node("Split", ["past"], ["n", "d", "m"], axis=1, num_outputs=3),
        *(helper.make_node("Squeeze", [name, "one"], [f"{name}_past"]) for name in "ndm"),
        helper.make_node("Equal", ["d_past", "zero"], ["empty"]),
        helper.make_node("Where", ["empty", "least", "m_past"], ["m_start"]),
        helper.make_node(
            "Scan",
            ["n_past", "d_past", "m_start", "key", "value"],
            ["n_end", "d_end", "m_end", "y"],
            body=_token(),
            num_scan_inputs=2,
            scan_input_axes=[1, 1],
            scan_output_axes=[1],
        ),
        *(helper.make_node("Unsqueeze", [f"{name}_end", "one"], [f"{name}_present"]) for name in "ndm"),
        helper.make_node("Concat", ["n_present", "d_present", "m_present"], ["present"], axis=1),
    ]
    return define(NAME, ["key", "value", "decay", "bonus", "past"], ["y", "present"], nodes)


def _token() -> onnx.GraphProto:
    """One token: numerator, denominator and maximum, key and value [B, C] to the next three and the output."""

    def weighted(maximum: str, own: str, prefix: str) -> list[onnx.NodeProto]:
        """Numerator and denominator with the token's own weight exp(own), divided by the larger of both factors."""
        return [
            helper.make_node("Max", [maximum, own], [f"{prefix}most"]),
            helper.make_node("Sub", [maximum, f"{prefix}most"], [f"{prefix}old_log"]),
            helper.make_node("Exp", [f"{prefix}old_log"], [f"{prefix}old"]),
            helper.make_node("Sub", [own, f"{prefix}most"], [f"{prefix}new_log"]),
            helper.make_node("Exp", [f"{prefix}new_log"], [f"{prefix}new"]),
            helper.make_node("Mul", [f"{prefix}old", "n_in"], [f"{prefix}old_n"]),
            helper.make_node("Mul", [f"{prefix}new", "v"], [f"{prefix}new_n"]),
            helper.make_node("Add", [f"{prefix}old_n", f"{prefix}new_n"], [f"{prefix}n"]),
            helper.make_node("Mul", [f"{prefix}old", "d_in"], [f"{prefix}old_d"]),
            helper.make_node("Add", [f"{prefix}old_d", f"{prefix}new"], [f"{prefix}d"]),
        ]

    nodes = [
        helper.make_node("Add", ["k", "bonus"], ["own_log"]),
        *weighted("m_in", "own_log", "out_"),
        helper.make_node("Div", ["out_n", "out_d"], ["y_token"]),
        helper.make_node("Sub", ["m_in", "decay"], ["decayed"]),
        *weighted("decayed", "k", "next_"),
    ]
    names = ["n_in", "d_in", "m_in", "k", "v"]
    results = ["next_n", "next_d", "next_most", "y_token"]

    def info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", "C"])

    return helper.make_graph(nodes, "token", [info(name) for name in names], [info(name) for name in results])
