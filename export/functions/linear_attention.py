"""LinearAttention and SelectiveScan as a Scan over the tokens, for runtimes that have neither as an op."""

from collections.abc import Sequence
from typing import Final

import onnx
import onnx_ir as ir
from onnx import helper

from edgekiln.export.functions.define import define
from edgekiln.export.functions.scan import scan_over_tokens
from edgekiln.export.recurrent_ops import UpdateRule

SELECTIVE_SCAN: Final = "SelectiveScanByToken"


def linear_attention_name(rule: UpdateRule, decay_by_row: bool) -> str:
    """The name of the function of `linear_attention_function`."""
    return f"LinearAttentionByToken_{rule}{'_by_row' if decay_by_row else ''}"


def linear_attention_function(rule: UpdateRule, decay_by_row: bool) -> ir.Function:
    """The op of `edgekiln.export.recurrent_ops.linear_attention` for one update rule and a scale of 1.

    Inputs: query, key float [B, S, H, DK], one head for each head of values; value [B, S, H, DV]; past [B, H, DK, DV];
    decay [B, S, H], or [B, S, H, DK] if `decay_by_row`, for the gated rules; beta [B, S, H] for the delta rules.
    Outputs: y [B, S, H, DV], present [B, H, DK, DV].
    """
    gated, delta = rule.startswith("gated"), rule.endswith("delta")
    inputs = ["query", "key", "value", *(["decay"] if gated else []), *(["beta"] if delta else [])]
    body = [
        _ints("axis_2", [2]),
        _ints("axis_3", [3]),
        _ints("last_two", [2, 3]),
        helper.make_node("Unsqueeze", ["key_t", "axis_3"], ["key_column"]),
    ]
    state, new = "state_in", "value_t"
    if gated:
        body += [
            helper.make_node("Exp", ["decay_t"], ["kept"]),
            helper.make_node("Unsqueeze", ["kept", "axis_3" if decay_by_row else "last_two"], ["kept_rows"]),
            helper.make_node("Mul", ["state_in", "kept_rows"], ["decayed"]),
        ]
        state = "decayed"
    if delta:
        body += [
            helper.make_node("Unsqueeze", ["key_t", "axis_2"], ["key_row"]),
            helper.make_node("MatMul", ["key_row", state], ["known_row"]),
            helper.make_node("Squeeze", ["known_row", "axis_2"], ["known"]),
            helper.make_node("Sub", ["value_t", "known"], ["difference"]),
            helper.make_node("Unsqueeze", ["beta_t", "axis_2"], ["rate"]),
            helper.make_node("Mul", ["difference", "rate"], ["update"]),
        ]
        new = "update"
    body += [
        helper.make_node("Unsqueeze", [new, "axis_2"], ["new_row"]),
        helper.make_node("Mul", ["key_column", "new_row"], ["product"]),
        helper.make_node("Add", [state, "product"], ["state_out"]),
        helper.make_node("Unsqueeze", ["query_t", "axis_2"], ["query_row"]),
        helper.make_node("MatMul", ["query_row", "state_out"], ["out_row"]),
        helper.make_node("Squeeze", ["out_row", "axis_2"], ["out_t"]),
    ]
    ranks = {"query_t": 3, "key_t": 3, "value_t": 3, "decay_t": 3 if decay_by_row else 2, "beta_t": 2}
    scan = scan_over_tokens(
        body, {"state": 4}, {f"{name}_t": ranks[f"{name}_t"] for name in inputs}, {"out_t": 3}, axis=1
    )
    scan.input.extend(["past", *inputs])
    scan.output.extend(["present", "y"])
    parameters = ["query", "key", "value", "past", *inputs[3:]]
    return define(linear_attention_name(rule, decay_by_row), parameters, ["y", "present"], [scan])


def selective_scan_by_token_function() -> ir.Function:
    """The op of `edgekiln.export.recurrent_ops.selective_scan`; inputs and outputs as there."""
    body = [
        _ints("axis_1", [1]),
        _ints("axis_2", [2]),
        helper.make_node("Unsqueeze", ["step_t", "axis_2"], ["step_column"]),
        helper.make_node("Mul", ["step_column", "a_in"], ["decay"]),
        helper.make_node("Exp", ["decay"], ["kept"]),
        helper.make_node("Mul", ["state_in", "kept"], ["decayed"]),
        helper.make_node("Mul", ["step_t", "x_t"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "axis_2"], ["scaled_column"]),
        helper.make_node("Unsqueeze", ["b_t", "axis_1"], ["b_row"]),
        helper.make_node("Mul", ["scaled_column", "b_row"], ["new"]),
        helper.make_node("Add", ["decayed", "new"], ["state_out"]),
        helper.make_node("Unsqueeze", ["c_t", "axis_2"], ["c_column"]),
        helper.make_node("MatMul", ["state_out", "c_column"], ["out_column"]),
        helper.make_node("Squeeze", ["out_column", "axis_2"], ["out_t"]),
    ]
    tokens = dict.fromkeys(("x_t", "step_t", "b_t", "c_t"), 2)
    scan = scan_over_tokens(body, {"state": 3}, tokens, {"out_t": 2}, axis=2, constants={"a": 2})
    scan.input.extend(["past", "a", "x", "step", "b", "c"])
    scan.output.extend(["present", "same_a", "y"])
    return define(SELECTIVE_SCAN, ["x", "step", "a", "b", "c", "past"], ["y", "present"], [scan])


def _ints(name: str, values: Sequence[int]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value_ints=values)
