"""Keys and values in int8: GroupQueryAttention with a scale for each channel of each key-value head."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekiln.calib.quantizers.kv_cache import CacheScales
from edgekiln.export.passes.common.tensors import constant

_PAST = slice(3, 5)
_KEY_SCALE, _VALUE_SCALE = 12, 13


def quantize_cache(model: ir.Model, scales: Sequence[CacheScales]) -> None:
    """Give a graph lowered for ONNX Runtime an int8 cache, in place; `scales` are in the order of the layers.

    Raises:
        ValueError: the graph has another number of attention layers.
    """
    nodes = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    if len(nodes) != len(scales):
        raise ValueError(f"{len(scales)} layers of scales for {len(nodes)} layers of attention")
    for node in nodes:
        past = node.inputs[_PAST.start]
        assert past is not None
        assert past.name is not None
        index = int(past.name.split(".")[1])
        inputs = [*node.inputs, *[None] * (_VALUE_SCALE + 1 - len(node.inputs))]
        for position, what, values in (
            (_KEY_SCALE, "key", scales[index].key),
            (_VALUE_SCALE, "value", scales[index].value),
        ):
            by_channel = np.ascontiguousarray(values[None, :, None, :], dtype=np.float32)
            inputs[position] = constant(model.graph, f"cache_scale.{index}.{what}", by_channel)
        node.resize_inputs(len(inputs))
        for position, value in enumerate(inputs):
            node.replace_input_with(position, value)
        node.attributes["kv_cache_bit_width"] = ir.AttrInt64("kv_cache_bit_width", 8)
        for name in ("k_quant_type", "v_quant_type"):
            node.attributes[name] = ir.AttrString(name, "PER_CHANNEL")
        for cached in (*node.inputs[_PAST], *node.outputs[1:3]):
            assert cached is not None
            cached.type = ir.TensorType(ir.DataType.INT8)
