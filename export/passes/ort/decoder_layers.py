"""Fuse the layers of a decoder into edgekiln.ort::{...}DecoderLayers, and inline the function again."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, common

from edgekiln.export.functions.decoder_layers import (
    INT8_CACHE_SUFFIX,
    NAMES,
    OWN_LENGTHS,
    UNUSED_INPUTS,
    DecoderLayer,
    attribute_values,
    decoder_layers_function,
)
from edgekiln.export.functions.define import DOMAIN, InlineFunctions, add_function
from edgekiln.export.functions.post_attention import QUANTIZED_GEMMS
from edgekiln.export.functions.rotary_attention import ATTENTIONS, CACHE_SCALE_INPUTS
from edgekiln.export.passes.common.tensors import is_weight, make, move_uses, only_reader
from edgekiln.export.passes.ort.qkv_prologue import match_qkv_prologue

_FUNCTIONS = {block: layers for gemm in QUANTIZED_GEMMS for block, layers in gemm.layers.items()}


class FuseDecoderLayers(InPlacePass):
    """Fuse the longest chain of attentions and PostAttention nodes into one DecoderLayers call.

    Cases:
        1. a float cache: {GroupBias,ZeroPoint,Symmetric,PerTokenInt8}DecoderLayers;
        2. an int8 cache with constant scales: {...}DecoderLayersInt8Cache;
        3. blocks with mixtures of experts: {...}MixtureDecoderLayers[Int8Cache];
        4. lengths that differ, in a graph with window buffers: each attention has lengths of its own.

    A chain ends at a layer that differs in sizes, kind of weights or rotary angles; only windows may differ.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        layers = [_match_layer(node) for node in model.graph if node.op_type in ATTENTIONS]
        by_input = {layer.prologue.projected: layer for layer in layers if layer is not None}
        longest = max((_chain(layer, by_input) for layer in by_input.values()), key=len, default=[])
        if len(longest) < 2:
            return PassResult(model, False)
        _replace(model, longest)
        common.RemoveUnusedNodesPass()(model)
        return PassResult(model, True)


class InlineDecoderLayers(InlineFunctions):
    """Inline every DecoderLayers call, for a pass that changes the attentions in it."""

    def __init__(self) -> None:
        super().__init__(NAMES)


def _match_layer(attention: ir.Node) -> DecoderLayer | None:
    """The layer of an attention; None if the kernel does not have such an attention."""
    prologue = match_qkv_prologue(attention)
    unused = attention.inputs[UNUSED_INPUTS.start : UNUSED_INPUTS.stop]
    if prologue is None or any(value is not None for value in unused):
        return None
    has_scales = len(attention.inputs) > CACHE_SCALE_INPUTS.start
    if has_scales and not all(map(is_weight, attention.inputs[CACHE_SCALE_INPUTS.start :])):
        return None
    block = only_reader(attention.outputs[0])
    if block is None or block.op_type not in _FUNCTIONS or block.inputs[0] is not attention.outputs[0]:
        return DecoderLayer(attention, prologue)
    return DecoderLayer(attention, prologue, block)


def _chain(first: DecoderLayer, by_input: dict[ir.Value, DecoderLayer]) -> list[DecoderLayer]:
    """`first` and the compatible layers after it."""
    layers = [first]
    while (block := layers[-1].post_attention) is not None:
        following = by_input.get(block.outputs[0])
        if (
            following is None
            or following.attention.op_type != first.attention.op_type
            or following.rotary != first.rotary
            or following.shared_attributes != first.shared_attributes
            or len(following.cache_scales) != len(first.cache_scales)
        ):
            break
        layers.append(following)
        next_block = following.post_attention
        if next_block is None or not _continues(block, next_block):
            break
    return layers


def _continues(block: ir.Node, next_block: ir.Node) -> bool:
    """Whether `next_block` is of the same kind as `block` and alone reads its residual."""
    return (
        next_block.op_type == block.op_type
        and attribute_values(next_block) == attribute_values(block)
        and next_block.inputs[1] is block.outputs[1]
        and only_reader(block.outputs[1]) is next_block
    )


def _replace(model: ir.Model, layers: list[DecoderLayer]) -> None:
    first, last = layers[0], layers[-1].attention
    own_lengths = any(layer.lengths != first.lengths for layer in layers)
    blocks = [layer.post_attention for layer in layers[:-1] if layer.post_attention is not None]
    inputs = [
        first.prologue.projected,
        blocks[0].inputs[1],
        *first.lengths,
        *first.rotary,
        *(value for layer in layers for value in layer.own_inputs(own_lengths)),
        *(value for block in blocks for value in block.inputs[2:]),
    ]
    attributes = {
        "windows": [layer.window for layer in layers],
        **first.shared_attributes,
        **attribute_values(blocks[0]),
        **({OWN_LENGTHS: 1} if own_lengths else {}),
    }
    name = _FUNCTIONS[blocks[0].op_type] + (INT8_CACHE_SUFFIX if first.cache_scales else "")
    add_function(model, decoder_layers_function(name, layers, blocks, list(attributes)))
    outputs = 2 + 2 * len(layers)
    new = make(name, inputs, f"{last.outputs[0].name}.layers", domain=DOMAIN, outputs=outputs, **attributes)
    present = [value for layer in layers for value in layer.attention.outputs[1:3]]
    model.graph.insert_before(last, [new])
    move_uses(model.graph, [last.outputs[0], blocks[-1].outputs[1], *present], new.outputs)
    for layer, block in zip(reversed(layers), (None, *reversed(blocks)), strict=True):
        for node in (block, layer.attention, *reversed(layer.prologue.nodes)):
            if node is not None:
                model.graph.remove(node, safe=True)
