"""Attention and what lies between it and the next one, for all layers of a decoder, as a function of these.

In a decode step ONNX Runtime takes as long to call a node and hand out its work as a small layer takes to compute. In
edgekiln's native kernel all layers are one loop of threads that stay awake.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import helper
from onnx_ir.passes import common

from edgekiln.export.functions import define as ort_functions
from edgekiln.export.passes.common.tensors import is_weight, make, move_uses, only_reader
from edgekiln.export.passes.ort.post_attention import PRODUCTS
from edgekiln.export.passes.ort.qkv_prologue import Preparation, preparation

_ATTENTION = "GroupQueryAttention"
_SUFFIXES = {product.name: f"{product.kind}DecoderLayers" for product in PRODUCTS}
_INT8_CACHE = "Int8Cache"
_NAMES = {name + suffix for name in _SUFFIXES.values() for suffix in ("", _INT8_CACHE)}
_WINDOW = "local_window_size"
# Inputs of an attention: query, key and value; each one's cache; what all layers share; others; scales of the cache.
_CACHE, _SHARED, _SCALES = range(3, 5), range(5, 9), range(12, 14)
_COMMON = ("last_position", "total_length", "cosine", "sine")


@dataclass(frozen=True)
class _Layer:
    """An attention and, but for a chain's last, what lies between it and the next one."""

    attention: ir.Node
    preparation: Preparation
    between: ir.Node | None = None

    @property
    def shared(self) -> list[ir.Value | None]:
        """What all layers must have from one place."""
        return [self.attention.inputs[i] for i in _SHARED]

    @property
    def attributes(self) -> dict[str, object]:
        """What must be alike in all layers: everything but windows."""
        rest = {name: value for name, value in _values(self.attention).items() if name != _WINDOW}
        return {**rest, **self.preparation.attributes}

    @property
    def scales(self) -> list[ir.Value | None]:
        """Of an int8 cache."""
        return list(self.attention.inputs[_SCALES.start : _SCALES.stop])

    @property
    def own(self) -> list[ir.Value | None]:
        """Its cache, scales and what prepares its projections."""
        return [*(self.attention.inputs[i] for i in _CACHE), *self.scales, *self.preparation.constants]

    @property
    def window(self) -> int:
        """In tokens, 0 for all."""
        attributes = self.attention.attributes
        return max(0, attributes[_WINDOW].as_int()) if _WINDOW in attributes else 0


def fuse_decoder_layers(model: ir.Model) -> None:
    """Make the longest chain of attentions and what lies between them one function call, in place.

    A chain goes on while its layers are alike: sizes, kinds of weights, rotary angles. Only windows may differ.
    """
    layers = [_layer(node) for node in model.graph if node.op_type == _ATTENTION]
    found = {layer.preparation.projected: layer for layer in layers if layer is not None}
    longest = max((_chain(layer, found) for layer in found.values()), key=len, default=[])
    if len(longest) > 1:
        _replace(model, longest)
        common.RemoveUnusedNodesPass()(model)


def inline_decoder_layers(model: ir.Model) -> None:
    """Write the function out again, in place, for who changes its attentions."""
    ort_functions.write_out(model, _NAMES)


def _layer(attention: ir.Node) -> _Layer | None:
    prepared = preparation(attention)
    others = range(_SHARED.stop, _SCALES.start)
    if prepared is None or any(value is not None for value in attention.inputs[others.start : others.stop]):
        return None
    if len(attention.inputs) > _SHARED.stop and not all(map(is_weight, attention.inputs[_SCALES.start :])):
        return None
    between = only_reader(attention.outputs[0])
    if between is None or between.op_type not in _SUFFIXES or between.inputs[0] is not attention.outputs[0]:
        return _Layer(attention, prepared)
    return _Layer(attention, prepared, between)


def _chain(first: _Layer, found: dict[ir.Value, _Layer]) -> list[_Layer]:
    """The layers from `first` on that are like it; the last one's `between` is not of the chain."""
    layers = [first]
    while (before := layers[-1].between) is not None:
        following = found.get(before.outputs[0])
        if following is None or following.shared != first.shared or following.attributes != first.attributes:
            break
        if len(following.scales) != len(first.scales):
            break
        layers.append(following)
        between = following.between
        if between is None or not _goes_on(before, between):
            break
    return layers


def _goes_on(before: ir.Node, between: ir.Node) -> bool:
    """Whether `between` is of the same kind and takes up the residual."""
    return (
        between.op_type == before.op_type
        and _values(between) == _values(before)
        and between.inputs[1] is before.outputs[1]
        and only_reader(before.outputs[1]) is between
    )


def _values(node: ir.Node) -> dict[str, object]:
    return {name: attribute.value for name, attribute in node.attributes.items()}


def _replace(model: ir.Model, chain: list[_Layer]) -> None:
    first, last = chain[0], chain[-1].attention
    betweens = [layer.between for layer in chain[:-1] if layer.between is not None]
    inputs = [
        first.preparation.projected,
        betweens[0].inputs[1],
        *first.shared,
        *(value for layer in chain for value in layer.own),
        *(value for node in betweens for value in node.inputs[2:]),
    ]
    numbers = {
        "windows": [layer.window for layer in chain],
        **first.attributes,
        **_values(betweens[0]),
    }
    name = _SUFFIXES[betweens[0].op_type] + (_INT8_CACHE if first.scales else "")
    ort_functions.declare(model, _function(name, chain, betweens, list(numbers)))
    outputs = 2 + 2 * len(chain)
    new = make(name, inputs, f"{last.outputs[0].name}.layers", domain=ort_functions.DOMAIN, outputs=outputs, **numbers)
    present = [value for layer in chain for value in layer.attention.outputs[1:3]]
    model.graph.insert_before(last, [new])
    move_uses(model.graph, [last.outputs[0], betweens[-1].outputs[1], *present], new.outputs)
    for layer, between in zip(reversed(chain), (None, *reversed(betweens)), strict=True):
        for node in (between, layer.attention, *reversed(layer.preparation.nodes)):
            if node is not None:
                model.graph.remove(node, safe=True)


def _function(
    name: str, chain: Sequence[_Layer], betweens: Sequence[ir.Node], attributes: Sequence[str]
) -> ir.Function:
    """projected float [B, S, P] and residual float [B, S, H], what all attentions share, each one's cache, scales and
    what prepares its projections, and the constants of what lies between; to attended float [B, S, A] of the last
    attention, sum float [B, S, H] before it, and every present key and value.

    The attributes are the kernel's: here nodes have their own.
    """
    inputs, outputs = ["projected", "residual", *_COMMON], ["attended", "sum"]
    nodes: list[onnx.NodeProto] = []
    weights: list[str] = []
    projected, residual = inputs[:2]
    for index, layer in enumerate(chain):
        own = [f"own_{index}_{i}" for i in range(len(layer.own))]
        present = [f"present_{index}_key", f"present_{index}_value"]
        inputs += own
        outputs += present
        attended = "attended" if index + 1 == len(chain) else f"attended_{index}"
        scales = own[2 : 2 + len(layer.scales)]
        prepared, packed = layer.preparation.written(projected, own[2 + len(scales) :], f"prepared_{index}_")
        gap = [""] * (_SCALES.start - _SHARED.stop) if scales else []
        given = [*packed, *own[:2], *_COMMON, *gap, *scales]
        nodes += [*prepared, _copied(layer.attention, given, [attended, *present])]
        if index == len(betweens):
            break
        constants = [f"constant_{index}_{i}" for i in range(len(betweens[index].inputs) - 2)]
        weights += constants
        total = "sum" if index + 1 == len(betweens) else f"sum_{index}"
        projected = f"projected_{index}"
        nodes.append(_copied(betweens[index], [attended, residual, *constants], [projected, total]))
        residual = total
    return ort_functions.define(name, [*inputs, *weights], outputs, nodes, attributes)


def _copied(node: ir.Node, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    copy = helper.make_node(node.op_type, inputs, outputs, domain=node.domain)
    copy.attribute.extend(ir.serde.serialize_attribute(value) for value in node.attributes.values())
    return copy
