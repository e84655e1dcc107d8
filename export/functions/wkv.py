"""Wkv: the attention of RWKV-4, as a Scan over the tokens."""

from typing import Final

import onnx
import onnx_ir as ir
from onnx import helper

from edgekiln.export.functions.define import define
from edgekiln.export.functions.scan import scan_over_tokens

NAME: Final = "Wkv"
_LEAST: Final = -1e38  # maximum of an empty state


def wkv_function() -> ir.Function:
    """The op of `edgekiln.export.recurrent_ops.wkv`.

    Inputs: key, value float [B, S, C]; decay, bonus [C]; past [B, 3, C]. Outputs: y [B, S, C], present [B, 3, C].
    """
    scan = scan_over_tokens(
        _token(),
        {"state": 3},
        {"k": 2, "v": 2},
        {"y_token": 2},
        axis=1,
        constants={"decay": 1, "bonus": 1},
    )
    scan.input.extend(["past", "decay", "bonus", "key", "value"])
    scan.output.extend(["present", "same_decay", "same_bonus", "y"])
    return define(NAME, ["key", "value", "decay", "bonus", "past"], ["y", "present"], [scan])


def _token() -> list[onnx.NodeProto]:
    """One token: state [B, 3, C] of numerator, denominator and maximum, key and value [B, C] to the next state and the
    output.

    All of it is in the Scan, which stays in float32 when the graph is converted to float16.
    """

    def weighted(maximum: str, own: str, names: tuple[str, str, str], prefix: str) -> list[onnx.NodeProto]:
        """Numerator, denominator and maximum with the token's own weight exp(own), both divided by the maximum's."""
        numerator, denominator, most = names
        return [
            helper.make_node("Max", [maximum, own], [most]),
            helper.make_node("Sub", [maximum, most], [f"{prefix}old_log"]),
            helper.make_node("Exp", [f"{prefix}old_log"], [f"{prefix}old"]),
            helper.make_node("Sub", [own, most], [f"{prefix}new_log"]),
            helper.make_node("Exp", [f"{prefix}new_log"], [f"{prefix}new"]),
            helper.make_node("Mul", [f"{prefix}old", "n_in"], [f"{prefix}old_n"]),
            helper.make_node("Mul", [f"{prefix}new", "v"], [f"{prefix}new_n"]),
            helper.make_node("Add", [f"{prefix}old_n", f"{prefix}new_n"], [numerator]),
            helper.make_node("Mul", [f"{prefix}old", "d_in"], [f"{prefix}old_d"]),
            helper.make_node("Add", [f"{prefix}old_d", f"{prefix}new"], [denominator]),
        ]

    return [
        helper.make_node("Constant", [], ["one"], value_ints=[1]),
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Constant", [], ["least"], value_float=_LEAST),
        helper.make_node("Split", ["state_in"], ["n_row", "d_row", "m_row"], axis=1, num_outputs=3),
        *(helper.make_node("Squeeze", [f"{name}_row", "one"], [f"{name}_in"]) for name in "nd"),
        helper.make_node("Squeeze", ["m_row", "one"], ["m_held"]),
        helper.make_node("Equal", ["d_in", "zero"], ["empty"]),
        helper.make_node("Where", ["empty", "least", "m_held"], ["m_in"]),
        helper.make_node("Add", ["k", "bonus_in"], ["own_log"]),
        *weighted("m_in", "own_log", ("y_n", "y_d", "y_most"), "y_"),
        helper.make_node("Div", ["y_n", "y_d"], ["y_token"]),
        helper.make_node("Sub", ["m_in", "decay_in"], ["decayed"]),
        *weighted("decayed", "k", ("n_out", "d_out", "m_out"), "next_"),
        *(helper.make_node("Unsqueeze", [f"{name}_out", "one"], [f"{name}_present"]) for name in "ndm"),
        helper.make_node("Concat", ["n_present", "d_present", "m_present"], ["state_out"], axis=1),
    ]
