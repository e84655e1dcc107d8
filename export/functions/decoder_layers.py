"""{GroupBias,...}{,Mixture}DecoderLayers and ...DecoderLayersInt8Cache: all layers of a decoder in one call.

In a decode step ONNX Runtime needs as long to call a node and distribute its work as a small layer needs to compute.
The kernel runs all layers on a thread team that stays awake between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import onnx
import onnx_ir as ir

from edgekiln.export.functions.define import copied, define
from edgekiln.export.functions.post_attention import QUANTIZED_GEMMS
from edgekiln.export.functions.qkv_prologue import QKVPrologue
from edgekiln.export.functions.rotary_attention import CACHE_INPUTS, CACHE_SCALE_INPUTS, LENGTH_INPUTS, ROTARY_INPUTS

INT8_CACHE_SUFFIX: Final = "Int8Cache"
# Every function of this module, by name.
NAMES: Final = frozenset(
    name + suffix for gemm in QUANTIZED_GEMMS for name in gemm.layers.values() for suffix in ("", INT8_CACHE_SUFFIX)
)
# Inputs of an attention that a layer cannot have: position ids, a bias and sinks.
UNUSED_INPUTS: Final = range(9, 12)
# Attribute of a function whose layers have window buffers of several windows: each has lengths of its own.
OWN_LENGTHS: Final = "own_lengths"
_LENGTHS, _ROTARY = ("last_position", "total_length"), ("cosine", "sine")
_WINDOW = "local_window_size"


@dataclass(frozen=True)
class DecoderLayer:
    """One layer of a decoder-layers function.

    Attributes:
        attention: its attention, of `edgekiln.export.functions.rotary_attention.ATTENTIONS`.
        prologue: its QKV prologue.
        post_attention: the PostAttention call that alone reads the attention; None if there is none.
    """

    attention: ir.Node
    prologue: QKVPrologue
    post_attention: ir.Node | None = None

    @property
    def lengths(self) -> list[ir.Value | None]:
        """The attention's lengths, which layers may share."""
        return [self.attention.inputs[i] for i in LENGTH_INPUTS]

    @property
    def rotary(self) -> list[ir.Value | None]:
        """Cosines and sines of its rotary embedding, which all layers of a function share."""
        return [self.attention.inputs[i] for i in ROTARY_INPUTS]

    @property
    def shared_attributes(self) -> dict[str, object]:
        """Attributes that all layers of a function share: all but the window."""
        rest = {name: value for name, value in attribute_values(self.attention).items() if name != _WINDOW}
        return {**rest, **self.prologue.attributes}

    @property
    def cache_scales(self) -> list[ir.Value | None]:
        """Key and value scales of an int8 cache; empty for a float cache."""
        return list(self.attention.inputs[CACHE_SCALE_INPUTS.start : CACHE_SCALE_INPUTS.stop])

    def own_inputs(self, own_lengths: bool) -> list[ir.Value | None]:
        """The layer's own inputs: past key and value, cache scales, lengths if layers do not share them, constants of
        the prologue.
        """
        past = (self.attention.inputs[i] for i in CACHE_INPUTS)
        lengths = self.lengths if own_lengths else []
        return [*past, *self.cache_scales, *lengths, *self.prologue.constants]

    @property
    def window(self) -> int:
        """Sliding window in tokens; 0 for none."""
        attributes = self.attention.attributes
        return max(0, attributes[_WINDOW].as_int()) if _WINDOW in attributes else 0


def attribute_values(node: ir.Node) -> dict[str, object]:
    """Attribute name to value."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


def decoder_layers_function(
    name: str, layers: Sequence[DecoderLayer], post_attentions: Sequence[ir.Node], attributes: Sequence[str]
) -> ir.Function:
    """A chain of attentions with the post-attention blocks between them.

    Inputs: projected float [B, S, P] and residual float [B, S, H] of the first layer, the attentions' lengths, cosines
    and sines, each layer's own inputs (`DecoderLayer.own_inputs`), and the weights of each post-attention block.
    Outputs: attended float [B, S, A] of the last attention, sum float [B, S, H], its residual, and present key and
    value of each layer.

    Args:
        name: one of `NAMES`.
        layers: the layers; the last one's post-attention block is not part of the function.
        post_attentions: the blocks between them, one fewer than layers.
        attributes: names of the function's attributes, which only the kernel reads; `OWN_LENGTHS` among them if layers
            have lengths of their own.
    """
    own_lengths = OWN_LENGTHS in attributes
    inputs, outputs = ["projected", "residual", *_LENGTHS, *_ROTARY], ["attended", "sum"]
    nodes: list[onnx.NodeProto] = []
    weights: list[str] = []
    projected, residual = inputs[:2]
    for index, layer in enumerate(layers):
        own = [f"own_{index}_{i}" for i in range(len(layer.own_inputs(own_lengths)))]
        present = [f"present_{index}_key", f"present_{index}_value"]
        inputs += own
        outputs += present
        attended = "attended" if index + 1 == len(layers) else f"attended_{index}"
        scales = own[2 : 2 + len(layer.cache_scales)]
        rest = own[2 + len(scales) :]
        count = len(_LENGTHS) if own_lengths else 0
        lengths, constants = rest[:count] or list(_LENGTHS), rest[count:]
        prologue, query_key_value = layer.prologue.function_nodes(projected, constants, f"prologue_{index}_")
        unused = [""] * len(UNUSED_INPUTS) if scales else []
        attention_inputs = [*query_key_value, *own[:2], *lengths, *_ROTARY, *unused, *scales]
        nodes += [*prologue, copied(layer.attention, attention_inputs, [attended, *present])]
        if index == len(post_attentions):
            break
        block = post_attentions[index]
        constants = [f"constant_{index}_{i}" for i in range(len(block.inputs) - 2)]
        weights += constants
        total = "sum" if index + 1 == len(post_attentions) else f"sum_{index}"
        projected = f"projected_{index}"
        nodes.append(copied(block, [attended, residual, *constants], [projected, total]))
        residual = total
    return define(name, [*inputs, *weights], outputs, nodes, attributes)
