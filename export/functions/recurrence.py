"""CausalConv, LinearAttention, Mamba2Scan, GatedDeltaRule and GatedSelectiveScan: layers with states as single calls.

Each is what a function of the field's packages computes (causal_conv1d_fn, chunk_gated_delta_rule, selective_scan_fn,
mamba_chunk_scan_combined), with tokens before channels, so that projections need no Transpose.
"""

from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx import AttributeProto, helper

from edgekiln.export.functions import selective_scan
from edgekiln.export.functions.define import DOMAIN, MICROSOFT, define, with_ref_attributes

CAUSAL_CONV: Final = "CausalConv"
LINEAR_ATTENTION: Final = "LinearAttention"
MAMBA2_SCAN: Final = "Mamba2Scan"
GATED_DELTA_RULE: Final = "GatedDeltaRule"
GATED_SELECTIVE_SCAN: Final = "GatedSelectiveScan"
# Attributes of LinearAttention that its caller passes on; shapes are as Reshape and Expand take them.
_HEADS: Final = ("query_heads", "heads")
_SHAPES: Final = ("key_shape", "repeats", "repeated_shape", "value_shape", "heads_shape")
LAYOUT: Final = (*_HEADS, *_SHAPES)


def layout(key_heads: int, key_dim: int, heads: int, value_dim: int) -> dict[str, int | list[int]]:
    """The attributes `LAYOUT` for queries and keys [B, S, key_heads, key_dim] and values [B, S, heads, value_dim]."""
    return {
        "query_heads": key_heads,
        "heads": heads,
        "key_shape": [0, 0, key_heads * key_dim],
        "repeats": [1, 1, 1, heads // key_heads, 1],
        "repeated_shape": [0, 0, heads * key_dim],
        "value_shape": [0, 0, heads * value_dim],
        "heads_shape": [0, 0, heads, value_dim],
    }


def causal_conv_function() -> ir.Function:
    """The op of `edgekiln.export.recurrent_ops.causal_conv` for x [B, S, C] and weight [C, 1, K].

    Inputs: x, whose channels after the first C are not read, weight, bias float [C], past [B, C, K - 1]. Outputs: y
    [B, S, C], present. Attributes: activation, and channels, [C].
    """
    conv = helper.make_node(
        "CausalConvWithState", ["columns", "weight", "bias", "past"], ["convolved", "present"], domain=MICROSOFT
    )
    nodes = [
        *_sliced("x", "own", start=[0], end="channels"),
        _transposed("own", "columns"),
        with_ref_attributes(conv, AttributeProto.STRING, activation="activation"),
        _transposed("convolved", "y"),
    ]
    return define(CAUSAL_CONV, ["x", "weight", "bias", "past"], ["y", "present"], nodes, ["activation", "channels"])


def linear_attention_function() -> ir.Function:
    """The op of `edgekiln.export.recurrent_ops.linear_attention`, with LinearAttention of com.microsoft.

    Inputs: query, key [B, S, G, DK], value [B, S, H, DV], past [B, H, DK, DV], decay and beta [B, S, H], which may be
    absent; decay may be [B, S, H · DK]. Outputs: y [B, S, H, DV] and present. Attributes: update_rule, scale, `LAYOUT`.
    """
    nodes = [
        *ints("key_shape", "repeats", "repeated_shape", "value_shape", "heads_shape"),
        helper.make_node("Constant", [], ["axis"], value_ints=[3]),
        helper.make_node("Reshape", ["query", "key_shape_ints"], ["queries"]),
        helper.make_node("Unsqueeze", ["key", "axis"], ["key_of_group"]),
        helper.make_node("Expand", ["key_of_group", "repeats_ints"], ["repeated_key"]),
        helper.make_node("Reshape", ["repeated_key", "repeated_shape_ints"], ["keys"]),
        helper.make_node("Reshape", ["value", "value_shape_ints"], ["values"]),
    ]
    attention = helper.make_node(
        "LinearAttention",
        ["queries", "keys", "values", "past", "decay", "beta"],
        ["flat", "present"],
        domain=MICROSOFT,
    )
    with_ref_attributes(attention, AttributeProto.INT, q_num_heads="query_heads", kv_num_heads="heads")
    with_ref_attributes(attention, AttributeProto.STRING, update_rule="update_rule")
    with_ref_attributes(attention, AttributeProto.FLOAT, scale="scale")
    nodes += [attention, helper.make_node("Reshape", ["flat", "heads_shape_ints"], ["y"])]
    inputs = ["query", "key", "value", "past", "decay", "beta"]
    return define(LINEAR_ATTENTION, inputs, ["y", "present"], nodes, ["update_rule", "scale", *LAYOUT])


def mamba2_scan_function() -> ir.Function:
    """The scan of Mamba-2: gated linear attention of values step · x with decay step · a, plus d · x.

    step = min(max(softplus(dt + dt_bias), least_step), most_step). Source: Dao and Gu, "Transformers are SSMs" (2024).
    Inputs: x [B, S, H, P], dt [B, S, H], a [H], b and c [B, S, G, N], d and dt_bias [H], past [B, H, N, P]. Outputs:
    y [B, S, H, P] and present. Attributes: least_step, most_step, `LAYOUT`.
    """
    nodes = [
        helper.make_node("Constant", [], ["last"], value_ints=[-1]),
        helper.make_node("Add", ["dt", "dt_bias"], ["biased"]),
        helper.make_node("Softplus", ["biased"], ["unlimited"]),
        with_ref_attributes(
            helper.make_node("Constant", [], ["least"]), AttributeProto.FLOAT, value_float="least_step"
        ),
        with_ref_attributes(helper.make_node("Constant", [], ["most"]), AttributeProto.FLOAT, value_float="most_step"),
        helper.make_node("Clip", ["unlimited", "least", "most"], ["step"]),
        helper.make_node("Mul", ["step", "a"], ["decay"]),
        helper.make_node("Unsqueeze", ["step", "last"], ["step_of_head"]),
        helper.make_node("Mul", ["x", "step_of_head"], ["value"]),
        _attention(["c", "b", "value", "past", "decay"], ["read", "present"], "gated", scale=1.0),
        helper.make_node("Unsqueeze", ["d", "last"], ["skip"]),
        helper.make_node("Mul", ["x", "skip"], ["skipped"]),
        helper.make_node("Add", ["read", "skipped"], ["y"]),
    ]
    inputs = ["x", "dt", "a", "b", "c", "d", "dt_bias", "past"]
    return define(MAMBA2_SCAN, inputs, ["y", "present"], nodes, ["least_step", "most_step", *LAYOUT])


def gated_delta_rule_function() -> ir.Function:
    """Gated DeltaNet: linear attention of normalized queries and keys with the gated delta rule.

    decay = a · softplus(dt + dt_bias), beta = sigmoid(b); queries and keys are divided by their length. Source: Yang et
    al., "Gated Delta Networks" (2025). Inputs: query, key [B, S, G, DK], value [B, S, H, DV], dt, b [B, S, H], a,
    dt_bias [H], past [B, H, DK, DV]. Outputs: y [B, S, H, DV] and present. Attributes: epsilon, scale, `LAYOUT`.
    """
    nodes = [
        helper.make_node("Constant", [], ["last"], value_ints=[-1]),
        with_ref_attributes(helper.make_node("Constant", [], ["small"]), AttributeProto.FLOAT, value_float="epsilon"),
        *_normalized("query"),
        *_normalized("key"),
        helper.make_node("Add", ["dt", "dt_bias"], ["biased"]),
        helper.make_node("Softplus", ["biased"], ["step"]),
        helper.make_node("Mul", ["step", "a"], ["decay"]),
        helper.make_node("Sigmoid", ["b"], ["beta"]),
        _attention(["unit_query", "unit_key", "value", "past", "decay", "beta"], ["y", "present"], "gated_delta"),
    ]
    inputs = ["query", "key", "value", "dt", "b", "a", "dt_bias", "past"]
    return define(GATED_DELTA_RULE, inputs, ["y", "present"], nodes, ["epsilon", "scale", *LAYOUT])


def gated_selective_scan_function() -> ir.Function:
    """Mamba's selective_scan_fn: (scan + d · x) · silu(z) with step size softplus(dt + dt_bias).

    Source: Gu and Dao, "Mamba" (2023). Inputs: x, dt, z [B, S, C], a [C, N], b, c [B, S, N], d, dt_bias [C], past
    [B, C, N]; of z, channels before the last C are not read. Outputs: y [B, S, C] and present. Attributes: channels,
    C, and z_start, [-C].
    """
    scan = helper.make_node(
        selective_scan.NAME,
        ["x_columns", "step_columns", "a", "b_columns", "c_columns", "past"],
        ["read_columns", "present"],
        domain=DOMAIN,
    )
    nodes = [
        helper.make_node("Add", ["dt", "dt_bias"], ["biased"]),
        helper.make_node("Softplus", ["biased"], ["step"]),
        *(_transposed(name, f"{name}_columns") for name in ("x", "step", "b", "c")),
        with_ref_attributes(scan, AttributeProto.INT, channels="channels"),
        _transposed("read_columns", "read"),
        helper.make_node("Mul", ["x", "d"], ["skipped"]),
        helper.make_node("Add", ["read", "skipped"], ["sum"]),
        *_sliced("z", "gate", start="z_start", end=[np.iinfo(np.int64).max]),
        helper.make_node("Sigmoid", ["gate"], ["sigmoid"]),
        helper.make_node("Mul", ["gate", "sigmoid"], ["silu"]),
        helper.make_node("Mul", ["sum", "silu"], ["y"]),
    ]
    inputs = ["x", "dt", "a", "b", "c", "d", "z", "dt_bias", "past"]
    return define(GATED_SELECTIVE_SCAN, inputs, ["y", "present"], nodes, ["channels", "z_start"])


def _attention(inputs: list[str], outputs: list[str], rule: str, **attributes: Any) -> onnx.NodeProto:
    """A call of LinearAttention with the attributes `LAYOUT` of the function around it, and its scale if none given."""
    node = helper.make_node(LINEAR_ATTENTION, inputs, outputs, domain=DOMAIN, update_rule=rule, **attributes)
    with_layout(node)
    return node if attributes else with_ref_attributes(node, AttributeProto.FLOAT, scale="scale")


def with_layout(node: onnx.NodeProto) -> onnx.NodeProto:
    """Give `node` the attributes `LAYOUT` of the function around it."""
    with_ref_attributes(node, AttributeProto.INT, **{name: name for name in _HEADS})
    return with_ref_attributes(node, AttributeProto.INTS, **{name: name for name in _SHAPES})


def ints(*names: str) -> list[onnx.NodeProto]:
    """Constants of integer lists that are attributes of the function."""
    return [
        with_ref_attributes(helper.make_node("Constant", [], [f"{name}_ints"]), AttributeProto.INTS, value_ints=name)
        for name in names
    ]


def _normalized(name: str) -> list[onnx.NodeProto]:
    """Each head divided by its length: x / sqrt(sum(x²) + small)."""
    return [
        helper.make_node("Mul", [name, name], [f"{name}_squares"]),
        helper.make_node("ReduceSum", [f"{name}_squares", "last"], [f"{name}_sum"], keepdims=1),
        helper.make_node("Add", [f"{name}_sum", "small"], [f"{name}_positive"]),
        helper.make_node("Sqrt", [f"{name}_positive"], [f"{name}_length"]),
        helper.make_node("Div", [name, f"{name}_length"], [f"unit_{name}"]),
    ]


def _sliced(x: str, to: str, start: str | list[int], end: str | list[int]) -> list[onnx.NodeProto]:
    """Part of the last of three axes; a limit is a list with one number, or the attribute that is one."""
    nodes = [helper.make_node("Constant", [], [f"{to}_axis"], value_ints=[2])]
    for name, limit in {f"{to}_start": start, f"{to}_end": end}.items():
        if isinstance(limit, str):
            node = with_ref_attributes(helper.make_node("Constant", [], [name]), AttributeProto.INTS, value_ints=limit)
        else:
            node = helper.make_node("Constant", [], [name], value_ints=limit)
        nodes.append(node)
    return [*nodes, helper.make_node("Slice", [x, f"{to}_start", f"{to}_end", f"{to}_axis"], [to])]


def _transposed(x: str, to: str) -> onnx.NodeProto:
    return helper.make_node("Transpose", [x], [to], perm=[0, 2, 1])
