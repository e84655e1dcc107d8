"""Lower edgekiln::Attention to TensorScatter or Concat, and the standard Attention or MatMul + Softmax + MatMul."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export import canonical
from edgekiln.export.passes.common.attention_bias import BiasKind, sinks_of
from edgekiln.export.passes.common.tensors import (
    attribute,
    constant,
    heads_of,
    inputs_of,
    make,
    name_of,
    replace_node,
)
from edgekiln.export.passes.onnx.attention_masks import AttentionMasks

# The first opset with TensorScatter.
IN_PLACE_OPSET = 24


class LowerToOnnxAttention(InPlacePass):
    """Replace every Attention by standard ops.

    Cases of the KV cache:
        1. in place, [B, KV, capacity, D]: TensorScatter writes new keys and values to the slots of their positions, so
           that past and present can be one buffer and batches need no padding;
        2. growing, [B, KV, P, D]: Concat appends them; the sequences of a batch are aligned at their last token.

    Cases of the scores:
        3. no softcap, no sinks, and `fused`: the standard Attention with an explicit mask;
        4. otherwise: MatMul, Softmax and MatMul, with the query heads of a key-value head in a dimension of their own.
           Sinks are one more column of scores, which is cut off after the Softmax.

    Args:
        capacity: tokens of a sequence that an in-place cache holds; None for a growing cache.
        fused: use the op Attention where it can be used.
    """

    def __init__(self, capacity: int | None, fused: bool) -> None:
        super().__init__()
        self._capacity = capacity
        self._fused = fused

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        nodes = [node for node in model.graph if node.domain == canonical.DOMAIN and node.op_type == "Attention"]
        if not nodes:
            return PassResult(model, False)
        masks = AttentionMasks(model.graph, nodes[0], growing=self._capacity is None)
        for node in nodes:
            _lower(model.graph, node, masks, self._fused)
        if self._capacity is not None:
            model.opset_imports[""] = max(model.opset_imports[""], IN_PLACE_OPSET)
            for value in (*model.graph.inputs, *model.graph.outputs):
                if (value.name or "").startswith(("past.", "present.")):
                    sizes = list(value.shape or ())
                    value.shape = ir.Shape([*sizes[:2], self._capacity, *sizes[3:]])
        return PassResult(model, True)


def _lower(graph: ir.Graph, node: ir.Node, masks: AttentionMasks, fused: bool) -> None:
    query, key, value, past_key, past_value = inputs_of(node, 5)
    name = name_of(node)
    scale, softcap = float(attribute(node, "scale")), float(attribute(node, "softcap"))
    bias, sinks = BiasKind.of(node), sinks_of(node)
    mask = masks.of(bias)
    new: list[ir.Node] = []
    for kind, past, added in (("key", past_key, key), ("value", past_value, value)):
        if masks.write_indices is not None:
            new.append(make("TensorScatter", [past, added, masks.write_indices], f"{name}.{kind}", axis=2))
        else:
            new.append(make("Concat", [past, added], f"{name}.{kind}", axis=2))
    present = [part.outputs[0] for part in new]
    if fused and not softcap and sinks is None:
        new.append(make("Attention", [query, *present, mask], f"{name}.heads", scale=scale))
    else:
        sizes = _Sizes(*heads_of(query), heads_of(key)[0])
        new += _decomposed(
            graph, sizes, _Inputs(query, present[0], present[1], mask, bool(bias.slopes), sinks), scale, softcap, name
        )
    new.append(make("Transpose", [new[-1].outputs[0]], f"{name}.by_position", perm=[0, 2, 1, 3]))
    replace_node(node, new, [new[-1].outputs[0], *present])


@dataclass(frozen=True)
class _Sizes:
    heads: int
    head_dim: int
    kv_heads: int


@dataclass(frozen=True)
class _Inputs:
    """Query [B, H, S, D], present key and value [B, KV, T, D], mask [B, 1 or H, S, T], sinks [H]."""

    query: ir.Value
    key: ir.Value
    value: ir.Value
    mask: ir.Value
    mask_of_heads: bool
    sinks: ir.Value | None


def _decomposed(
    graph: ir.Graph, sizes: _Sizes, inputs: _Inputs, scale: float, softcap: float, name: str
) -> list[ir.Node]:
    """Attention as MatMul, Softmax and MatMul.

    Args:
        graph: the graph, which gets constants.
        sizes: of the attention.
        inputs: of the attention.
        scale, softcap: as in `edgekiln.export.canonical.attention`; softcap 0 is none.
        name: prefix of names.

    Returns:
        The nodes; the last one's output is [B, H, S, D].
    """
    nodes: list[ir.Node] = []

    def add(op: str, inputs: list[ir.Value | None], suffix: str, **attributes: Any) -> ir.Value:
        nodes.append(make(op, inputs, f"{name}.{suffix}", **attributes))
        return nodes[-1].outputs[0]

    def number(kind: str, amount: float) -> ir.Value:
        return constant(graph, f"attention.{kind}.{amount}", np.array(amount, dtype=np.float32))

    def shape(sizes: list[int]) -> ir.Value:
        return constant(graph, f"attention.shape.{'.'.join(map(str, sizes))}", np.array(sizes, dtype=np.int64))

    third = constant(graph, "attention.third_axis", np.array([2], dtype=np.int64))
    last = constant(graph, "attention.last_axis", np.array([-1], dtype=np.int64))
    group = [sizes.kv_heads, sizes.heads // sizes.kv_heads]
    scaled = add("Mul", [inputs.query, number("scale", scale)], "scaled")
    grouped = add("Reshape", [scaled, shape([0, *group, -1, sizes.head_dim])], "grouped")
    keys = add("Unsqueeze", [add("Transpose", [inputs.key], "keys", perm=[0, 1, 3, 2]), third], "grouped_keys")
    scores = add("MatMul", [grouped, keys], "scores")
    if softcap:
        cap = number("softcap", softcap)
        scores = add("Mul", [add("Tanh", [add("Div", [scores, cap], "by_cap")], "tanh"), cap], "capped")
    if inputs.mask_of_heads and group[1] > 1:
        lengths = add("Shape", [inputs.mask], "mask_lengths", start=2)
        mask = add("Reshape", [inputs.mask, add("Concat", [shape([0, *group]), lengths], "mask_shape", axis=0)], "mask")
    else:
        mask = add("Unsqueeze", [inputs.mask, third], "grouped_mask")
    scores = add("Add", [scores, mask], "masked")
    if inputs.sinks is not None:
        each = add("Reshape", [inputs.sinks, shape([1, *group, 1, 1])], "grouped_sinks")
        rows = add("Concat", [add("Shape", [scores], "rows", end=-1), shape([1])], "column_shape", axis=0)
        scores = add("Concat", [scores, add("Expand", [each, rows], "sink_column")], "with_sinks", axis=-1)
    weights = add("Softmax", [scores], "weights", axis=-1)
    if inputs.sinks is not None:
        weights = add("Slice", [weights, shape([0]), last, last], "key_weights")
    out = add("MatMul", [weights, add("Unsqueeze", [inputs.value, third], "grouped_values")], "grouped_out")
    add("Reshape", [out, shape([0, sizes.heads, -1, sizes.head_dim])], "heads")
    return nodes
