"""Whether what was quantized in the graph is quantized in the plan: before the build in the network, after it by size.

A plan can be opened, and its layers be listed, only where its GPU is; these checks need none.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from edgekiln.errors import UnsupportedModelError

_QUANTIZED = (ir.DataType.INT4, ir.DataType.INT8)
# A plan holds more than weights: kernels for each compute capability, constants, names.
_FIXED_BYTES = 32 * 10**6
_NAMED = 3


@dataclass(frozen=True)
class StoredWeights:
    """Bytes of a graph's weights as they are, and as they would be were the quantized ones in 16 bits."""

    packed: int
    unpacked: int


def check_network(graph: Path, network: Any, module: Any) -> StoredWeights:
    """Compare a parsed network with its graph.

    Args:
        graph: the ONNX file.
        network: INetworkDefinition that was parsed from it.
        module: the library's Python module.

    Raises:
        UnsupportedModelError: naming quantized weights that the network does not dequantize from their own type.
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
    return StoredWeights(packed, unpacked)


def _dequantized(network: Any, module: Any) -> dict[str, str]:
    """Outputs of the layers that dequantize, with the type they start from."""
    found = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == module.LayerType.DEQUANTIZE:
            found[layer.get_output(0).name] = layer.get_input(0).dtype.name
    return found


def check_size(size: int, weights: StoredWeights) -> None:
    """Whether a plan of `size` bytes holds its weights quantized.

    Raises:
        UnsupportedModelError: it is as large as if they were not.
    """
    limit = weights.packed + (weights.unpacked - weights.packed) // 2 + _FIXED_BYTES
    if size > limit:
        raise UnsupportedModelError(
            f"the plan has {size / 1e6:.0f} MB where quantized weights take {weights.packed / 1e6:.0f}: its layers "
            "came out unquantized; use --target ort-cuda, and report this"
        )
