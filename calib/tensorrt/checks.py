"""Check that the weights quantized in the graph are quantized in the plan too.

Before the build the parsed network is checked, after it the size of the plan. Neither needs a GPU, which is needed to
open a plan and list its layers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from edgekiln.errors import UnsupportedModelError

_QUANTIZED = (ir.DataType.INT4, ir.DataType.INT8)
# Allowance for the contents of a plan beside weights: kernels for each compute capability, constants and names.
_FIXED_BYTES = 32 * 10**6
_NAMED = 3


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of a graph's weights.

    Attributes:
        packed: as they are in the graph.
        unpacked: with the quantized ones in 16 bits.
    """

    packed: int
    unpacked: int


def check_network(graph: Path, network: Any, module: Any) -> WeightBytes:
    """Check that a parsed network dequantizes the quantized weights of its graph.

    Args:
        graph: the ONNX file.
        network: INetworkDefinition that was parsed from it.
        module: the library's Python module.

    Raises:
        UnsupportedModelError: the network lacks some, or dequantizes them from another type; the message names them.
    """
    model = ir.from_proto(onnx.load(graph, load_external_data=False))
    found = _dequantized(network, module)
    missing = []
    for node in model.graph:
        weight = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if weight is None or weight.const_value is None or weight.dtype not in _QUANTIZED:
            continue
        output = node.outputs[0].name
        if found.get(output or "") != str(weight.dtype.name):
            missing.append(weight.name or str(output))
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise UnsupportedModelError(
            f"quantized weights came out unquantized: {', '.join(missing[:_NAMED])}{more}; use --target ort-cuda, and "
            "report this"
        )
    packed = unpacked = 0
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        packed += tensor.nbytes
        unpacked += tensor.size * 2 if tensor.dtype in _QUANTIZED else tensor.nbytes
    return WeightBytes(packed, unpacked)


def _dequantized(network: Any, module: Any) -> dict[str, str]:
    """Output name of each dequantize layer to the type of its input."""
    found = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == module.LayerType.DEQUANTIZE:
            found[layer.get_output(0).name] = layer.get_input(0).dtype.name
    return found


def check_size(size: int, weights: WeightBytes) -> None:
    """Check that a plan of `size` bytes can only hold its weights quantized.

    Raises:
        UnsupportedModelError: it is large enough to hold them unquantized.
    """
    limit = weights.packed + (weights.unpacked - weights.packed) // 2 + _FIXED_BYTES
    if size > limit:
        raise UnsupportedModelError(
            f"the plan has {size / 1e6:.0f} MB where quantized weights take {weights.packed / 1e6:.0f}: its layers "
            "came out unquantized; use --target ort-cuda, and report this"
        )
