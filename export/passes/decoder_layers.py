"""Attention and what lies between it and the next one, for all layers of a decoder, as a function of these.

In a decode step ONNX Runtime takes as long to call a node and hand out its work as a small layer takes to compute. In
edgekiln's native kernel all layers are one loop of threads that stay awake.
"""

from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx import helper
from onnx_ir.passes import common

from edgekiln.export.passes import ort_functions
from edgekiln.export.passes.between_attentions import PRODUCTS
from edgekiln.export.passes.tensors import is_weight, make, move_uses

_ATTENTION = "GroupQueryAttention"
_SUFFIXES = {product.name: f"{product.kind}DecoderLayers" for product in PRODUCTS}
_INT8_CACHE = "Int8Cache"
_NAMES = {name + suffix for name in _SUFFIXES.values() for suffix in ("", _INT8_CACHE)}
_WINDOW = "local_window_size"
# Inputs of an attention: what all layers share, and what each has for itself.
_QUERY, _SHARED, _CACHE, _SCALES = 0, slice(5, 9), slice(3, 5), slice(12, 14)
_COMMON = ("last_position", "total_length", "cosine", "sine")


def fuse_decoder_layers(model: ir.Model) -> None:
    """Make the longest chain of attentions and what lies between them one function call, in place.

    A chain goes on while its layers are alike: sizes, kinds of weights, rotary angles. Only windows may differ.
    """
    chains = [_chain(node) for node in model.graph if node.op_type == _ATTENTION]
    longest = max(chains, key=len, default=[])
    if len(longest) > 1:
        _replace(model, longest)


def inline_decoder_layers(model: ir.Model) -> None:
    """Write the function out again, in place, for who changes its attentions."""
    common.InlinePass(criteria=lambda function: function.domain == ort_functions.DOMAIN and function.name in _NAMES)(
        model
    )


def _chain(attention: ir.Node) -> list[ir.Node]:
    """Attention, between, attention and so on, which ends with an attention."""
    nodes = [attention]
    while _is_packed(nodes[-1]) and (between := _only_reader(nodes[-1].outputs[0])) is not None:
        following = _only_reader(between.outputs[0]) if between.op_type in _SUFFIXES else None
        if following is None or following.op_type != _ATTENTION or not _is_packed(following):
            break
        if between.inputs[0] is not nodes[-1].outputs[0] or not _goes_on(nodes, between, following):
            break
        nodes += [between, following]
    return nodes


def _goes_on(nodes: Sequence[ir.Node], between: ir.Node, following: ir.Node) -> bool:
    attention = nodes[0]
    if list(following.inputs[_SHARED]) != list(attention.inputs[_SHARED]):
        return False
    if _without_window(following) != _without_window(attention) or _has_scales(following) != _has_scales(attention):
        return False
    if len(nodes) == 1:
        return True
    before = nodes[-2]
    return (
        between.op_type == before.op_type
        and _without_window(between) == _without_window(before)
        and between.inputs[1] is before.outputs[1]
        and _only_reader(before.outputs[1]) is between
    )


def _is_packed(attention: ir.Node) -> bool:
    """Whether query, key and value are one tensor, and nothing is given but what the function hands on."""
    handed_on = {_QUERY, *range(*_CACHE.indices(_SCALES.stop)), *range(*_SHARED.indices(_SCALES.stop))}
    return (
        all(value is None or i in handed_on or i >= _SCALES.start for i, value in enumerate(attention.inputs))
        and len(attention.inputs) <= _SCALES.stop
    )


def _has_scales(attention: ir.Node) -> bool:
    return len(attention.inputs) == _SCALES.stop and all(map(is_weight, attention.inputs[_SCALES]))


def _without_window(node: ir.Node) -> dict[str, object]:
    return {name: value.value for name, value in node.attributes.items() if name != _WINDOW}


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0][0] if len(uses) == 1 and not value.is_graph_output() else None


def _replace(model: ir.Model, chain: list[ir.Node]) -> None:
    attentions, betweens = chain[::2], chain[1::2]
    first, last = attentions[0], attentions[-1]
    own = [*range(_CACHE.start, _CACHE.stop), *(range(_SCALES.start, _SCALES.stop) if _has_scales(first) else ())]
    shared = [first.inputs[_QUERY], betweens[0].inputs[1], *first.inputs[_SHARED]]
    inputs = [
        *shared,
        *(node.inputs[i] for node in attentions for i in own),
        *(value for node in betweens for value in node.inputs[2:]),
    ]
    name = _SUFFIXES[betweens[0].op_type] + (_INT8_CACHE if _has_scales(first) else "")
    numbers = {
        "windows": [_window(node) for node in attentions],
        **_without_window(first),
        **_without_window(betweens[0]),
    }
    ort_functions.declare(model, _function(name, attentions, betweens, own, list(numbers)))
    new = make(
        name,
        inputs,
        f"{last.outputs[0].name}.layers",
        domain=ort_functions.DOMAIN,
        outputs=2 + 2 * len(attentions),
        **numbers,
    )
    old = [last.outputs[0], betweens[-1].outputs[1], *(value for node in attentions for value in node.outputs[1:3])]
    model.graph.insert_before(last, [new])
    move_uses(model.graph, old, new.outputs)
    for node in reversed(chain):
        model.graph.remove(node, safe=True)


def _window(attention: ir.Node) -> int:
    return max(0, attention.attributes[_WINDOW].as_int()) if _WINDOW in attention.attributes else 0


def _function(
    name: str, attentions: Sequence[ir.Node], betweens: Sequence[ir.Node], own: Sequence[int], attributes: Sequence[str]
) -> ir.Function:
    """projected float [B, S, P] and residual float [B, S, H], what all attentions share, each one's cache and scales,
    and the constants of what lies between; to attended float [B, S, A] of the last attention, sum float [B, S, H]
    before it, and every present key and value.

    The attributes are the kernel's: here nodes have their own.
    """
    inputs, outputs = ["projected", "residual", *_COMMON], ["attended", "sum"]
    nodes: list[onnx.NodeProto] = []
    weights: list[str] = []
    projected, residual = inputs[:2]
    for layer, attention in enumerate(attentions):
        last = layer + 1 == len(attentions)
        mine = {i: f"cache_{layer}_{i}" for i in own}
        inputs += mine.values()
        present = [f"present_{layer}_key", f"present_{layer}_value"]
        outputs += present
        attended = "attended" if last else f"attended_{layer}"
        fixed = dict(zip(range(_SHARED.start, _SHARED.stop), _COMMON, strict=True))
        given = {_QUERY: projected, **fixed, **mine}
        places = [given.get(i, "") for i in range(max(given) + 1)]
        nodes.append(_copied(attention, places, [attended, *present]))
        if last:
            break
        between = betweens[layer]
        constants = [f"constant_{layer}_{i}" for i in range(len(between.inputs) - 2)]
        weights += constants
        after = "sum" if layer + 1 == len(betweens) else f"sum_{layer}"
        projected, given_residual, residual = f"projected_{layer}", residual, after
        nodes.append(_copied(between, [attended, given_residual, *constants], [projected, after]))
    return ort_functions.define(name, [*inputs, *weights], outputs, nodes, attributes)


def _copied(node: ir.Node, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    copy = helper.make_node(node.op_type, inputs, outputs, domain=node.domain)
    copy.attribute.extend(ir.serde.serialize_attribute(value) for value in node.attributes.values())
    return copy
