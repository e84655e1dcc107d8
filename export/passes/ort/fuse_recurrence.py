"""Fuse the canonical ops of layers with states, and the arithmetic around them, into functions of edgekiln.ort."""

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, common

from edgekiln.export import canonical
from edgekiln.export.functions import recurrence
from edgekiln.export.functions.define import DOMAIN as ORT_DOMAIN
from edgekiln.export.functions.define import add_function
from edgekiln.export.functions.selective_scan import selective_scan_function
from edgekiln.export.passes.common.new_nodes import NewNodes
from edgekiln.export.passes.common.tensors import (
    attribute,
    constant,
    graph_of,
    input_of,
    inputs_of,
    is_weight,
    move_uses,
    new_initializer,
    only_reader,
    optional_input,
    replace_node,
    shape_of,
    size_of,
    sizes_of,
    values_of,
)
from edgekiln.export.passes.ort.match_recurrence import (
    match_decay,
    match_l2_norm,
    match_silu,
    match_skip,
    match_step,
    other_factor,
    producer_of,
    tokens_first,
)

# What the kernels take, see cpp/kernels.
_MAX_CONV_WIDTH, _MAX_KEY_DIM, _MAX_STATES = 16, 256, 64
_LEAST_VALUE_DIM = 8  # narrower values use little of a vector; ONNX Runtime's op takes them


class FuseRecurrence(InPlacePass):
    """Fuse the ops of `edgekiln.export.recurrent_ops` for edgekiln's kernels; runs before LowerRecurrence.

    Cases:
        1. MaskPadding: removed, since runs have no padding;
        2. CausalConv with a constant weight: CausalConv of tokens;
        3. LinearAttention with the decay, step and skip connection of Mamba-2: Mamba2Scan;
        4. LinearAttention with the decay and norms of Gated DeltaNet: GatedDeltaRule;
        5. other LinearAttention with values of 8 or more elements: LinearAttention of edgekiln.ort;
        6. SelectiveScan with softplus, skip connection and gate: GatedSelectiveScan.

    Others are left to LowerRecurrence, and to ONNX Runtime's ops.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        nodes = [node for node in model.graph if node.domain == canonical.DOMAIN]
        for node in nodes:
            if node.op_type == "MaskPadding":
                replace_node(node, [], [input_of(node, 0)])
        for node in nodes:
            match node.op_type:
                case "CausalConv":
                    _fuse_conv(model, node)
                case "LinearAttention" if size_of(input_of(node, 1), 3) <= _MAX_KEY_DIM:
                    if not (_fuse_mamba2(model, node) or _fuse_delta_rule(model, node)):
                        _fuse_attention(model, node)
                case "SelectiveScan":
                    _fuse_scan(model, node)
        common.RemoveUnusedNodesPass()(model)
        return PassResult(model, bool(nodes))


def _fuse_conv(model: ir.Model, node: ir.Node) -> None:
    x, weight, past = inputs_of(node, 3)
    squeeze = producer_of(weight, "Squeeze")
    source = input_of(squeeze, 0) if squeeze is not None else weight
    channels, width = size_of(weight, 0), size_of(weight, 1)
    if not is_weight(source) or width > _MAX_CONV_WIDTH:
        return
    graph, shape = graph_of(node), (channels, 1, width)
    if shape_of(source) != shape:
        name = f"{source.name}.depthwise"
        source = new_initializer(graph, name, shape, ir.DataType.FLOAT, partial(_reshaped, source, shape))
    bias = optional_input(node, 3) or constant(graph, f"zeros.{channels}", np.zeros(channels, np.float32))
    add_function(model, recurrence.causal_conv_function())
    nodes = NewNodes(node)
    inputs: list[ir.Value | None] = [_by_token(nodes, x, "x"), source, bias, past]
    activation = str(attribute(node, "activation"))
    out = _call(nodes, recurrence.CAUSAL_CONV, inputs, activation=activation, channels=[channels])
    present = nodes.new[-1].outputs[1]
    nodes.replace(nodes.add("Transpose", [out], "columns", perm=[0, 2, 1]), present)


def _reshaped(weight: ir.Value, shape: tuple[int, ...]) -> np.ndarray:
    return values_of(weight).reshape(shape)


def _fuse_mamba2(model: ir.Model, node: ir.Node) -> bool:
    query, key, value, past = inputs_of(node, 4)
    decay = match_decay(optional_input(node, 4))
    if decay is None or attribute(node, "rule") != "gated" or attribute(node, "scale") != 1.0:
        return False
    step, size, a = decay
    scaled = producer_of(value, "Mul")
    x = None
    for factor in scaled.inputs if scaled is not None else ():
        unsqueeze = producer_of(factor, "Unsqueeze")
        if factor is not None and unsqueeze is not None and unsqueeze.inputs[0] is size:
            x = other_factor(value, factor)
    skip = match_skip(node.outputs[0], x) if x is not None else None
    if x is None or skip is None:
        return False
    add, d = skip
    _add_attention(model)
    add_function(model, recurrence.mamba2_scan_function())
    nodes = NewNodes(node)
    out = _call(
        nodes,
        recurrence.MAMBA2_SCAN,
        [x, step.dt, a, key, query, d, step.bias, past],
        least_step=step.least,
        most_step=step.most,
        **_layout(key, value),
    )
    _replace(nodes, node, add, out, nodes.new[-1].outputs[1])
    return True


def _fuse_delta_rule(model: ir.Model, node: ir.Node) -> bool:
    query, key, value, past = inputs_of(node, 4)
    decay = match_decay(optional_input(node, 4))
    beta = producer_of(optional_input(node, 5), "Sigmoid")
    norms = [match_l2_norm(x) for x in (query, key)]
    if decay is None or beta is None or attribute(node, "rule") != "gated_delta":
        return False
    step, _, a = decay
    if norms[0] is None or norms[1] is None or norms[0][1] != norms[1][1] or step.limited:
        return False
    _add_attention(model)
    add_function(model, recurrence.gated_delta_rule_function())
    nodes = NewNodes(node)
    out = _call(
        nodes,
        recurrence.GATED_DELTA_RULE,
        [norms[0][0], norms[1][0], value, step.dt, beta.inputs[0], a, step.bias, past],
        epsilon=norms[0][1],
        scale=float(attribute(node, "scale")),
        **_layout(key, value),
    )
    nodes.replace(out, nodes.new[-1].outputs[1])
    return True


def _fuse_attention(model: ir.Model, node: ir.Node) -> None:
    query, key, value, past = inputs_of(node, 4)
    decay, beta = optional_input(node, 4), optional_input(node, 5)
    if size_of(value, 3) < _LEAST_VALUE_DIM:
        return
    _add_attention(model)
    nodes = NewNodes(node)
    if decay is not None and len(sizes_of(decay)) == 4:
        width = size_of(value, 2) * size_of(key, 3)
        decay = nodes.add("Reshape", [decay, nodes.ints(0, 0, width)], "decay.flat")
    out = _call(
        nodes,
        recurrence.LINEAR_ATTENTION,
        list(canonical.without_trailing_none(query, key, value, past, decay, beta)),
        update_rule=str(attribute(node, "rule")),
        scale=float(attribute(node, "scale")),
        **_layout(key, value),
    )
    nodes.replace(out, nodes.new[-1].outputs[1])


def _fuse_scan(model: ir.Model, node: ir.Node) -> None:
    x, size, a, b, c, past = inputs_of(node, 6)
    step = match_step(size)
    skip = match_skip(node.outputs[0], x)
    gated = only_reader(skip[0].outputs[0]) if skip is not None else None
    if step is None or skip is None or gated is None or size_of(a, 1) > _MAX_STATES:
        return
    add, d = skip
    z = match_silu(other_factor(gated.outputs[0], add.outputs[0]))
    if z is None or step.limited:
        return
    add_function(model, selective_scan_function())
    add_function(model, recurrence.gated_selective_scan_function())
    nodes = NewNodes(node)
    by_token = [
        _by_token(nodes, value, kind) for kind, value in {"x": x, "dt": step.dt, "b": b, "c": c, "z": z}.items()
    ]
    x, dt, b, c, z = by_token
    inputs: list[ir.Value | None] = [x, dt, a, b, c, d, z, step.bias, past]
    out = _call(nodes, recurrence.GATED_SELECTIVE_SCAN, inputs, channels=size_of(a, 0), z_start=[-size_of(a, 0)])
    present = nodes.new[-1].outputs[1]
    _replace(nodes, node, gated, nodes.add("Transpose", [out], "columns", perm=[0, 2, 1]), present)


def _add_attention(model: ir.Model) -> None:
    add_function(model, recurrence.linear_attention_function())


def _layout(key: ir.Value, value: ir.Value) -> dict[str, Any]:
    return recurrence.layout(size_of(key, 2), size_of(key, 3), size_of(value, 2), size_of(value, 3))


def _call(nodes: NewNodes, function: str, inputs: list[ir.Value | None], **attributes: Any) -> ir.Value:
    return nodes.add(function, inputs, "fused", domain=ORT_DOMAIN, outputs=2, **attributes)


def _by_token(nodes: NewNodes, columns: ir.Value, kind: str) -> ir.Value:
    """float [B, S, C] of columns [B, C, S]; ONNX Runtime cancels a Transpose that another one follows."""
    found = tokens_first(columns)
    return found if found is not None else nodes.add("Transpose", [columns], f"{kind}.tokens", perm=[0, 2, 1])


def _replace(nodes: NewNodes, node: ir.Node, last: ir.Node, out: ir.Value, present: ir.Value) -> None:
    """Put `nodes` in place of `last` and of what it alone needs: `node` and the arithmetic between them."""
    graph = graph_of(node)
    graph.insert_before(last, nodes.new)
    move_uses(graph, [last.outputs[0], node.outputs[1]], [out, present])
    graph.remove(last, safe=True)
