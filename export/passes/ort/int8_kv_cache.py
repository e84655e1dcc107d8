"""Give attentions an int8 KV cache with a scale for each channel of each key-value head."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.calib.quantizers.kv_cache import CacheScales
from edgekiln.export.functions.rotary_attention import ATTENTIONS, CACHE_INPUTS, CACHE_SCALE_INPUTS
from edgekiln.export.passes.common.tensors import constant, input_of


class QuantizeKVCache(InPlacePass):
    """Add cache scales and the int8 type to every attention, its past inputs and its present outputs.

    Args:
        scales: key and value scales [KV, D] of each layer, in the order of the layers.

    Raises:
        ValueError: the graph has another number of attentions.
    """

    def __init__(self, scales: Sequence[CacheScales]) -> None:
        super().__init__()
        self._scales = scales

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        nodes = [node for node in model.graph if node.op_type in ATTENTIONS]
        if len(nodes) != len(self._scales):
            raise ValueError(f"{len(self._scales)} layers of scales for {len(nodes)} layers of attention")
        for node in nodes:
            _quantize(model.graph, node, self._scales)
        return PassResult(model, bool(nodes))


def _quantize(graph: ir.Graph, node: ir.Node, scales: Sequence[CacheScales]) -> None:
    past = [input_of(node, index) for index in CACHE_INPUTS]
    layer = int((past[0].name or "").split(".")[1])
    inputs = [*node.inputs, *[None] * (CACHE_SCALE_INPUTS.stop - len(node.inputs))]
    kinds = (("key", scales[layer].key), ("value", scales[layer].value))
    for index, (kind, values) in zip(CACHE_SCALE_INPUTS, kinds, strict=True):
        by_channel = np.ascontiguousarray(values[None, :, None, :], dtype=np.float32)
        inputs[index] = constant(graph, f"cache_scale.{layer}.{kind}", by_channel)
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    node.attributes["kv_cache_bit_width"] = ir.AttrInt64("kv_cache_bit_width", 8)
    for name in ("k_quant_type", "v_quant_type"):
        node.attributes[name] = ir.AttrString(name, "PER_CHANNEL")
    for cached in (*past, *node.outputs[1:3]):
        cached.type = ir.TensorType(ir.DataType.INT8)
