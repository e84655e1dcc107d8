"""Bytes of weights that a decode step of one sequence reads, from the lowered graph."""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekiln.export.functions.mixture_post_attention import expert_inputs
from edgekiln.export.passes.common.tensors import input_of, optional_input, values_of

# (op, input) of tables of which a step reads single rows: embeddings.
_ROW_TABLES = {("Gather", 0), ("GatherBlockQuantized", 0), ("GatherBlockQuantized", 2), ("GatherBlockQuantized", 3)}
# Codes of which a step reads the high nibbles only, except for candidates.
_HIGH_NIBBLES = ("TwoPassMatMulNBits", 1)
# Of ops with this in their names, input 1 has the chosen experts, and every weight has all experts on axis 0.
_EXPERTS, _CHOSEN = "Expert", 1
_CHECKED = 1 << 22  # values at a time


def step_weight_bytes(model: ir.Model, halves: bool) -> int:
    """Bytes of weights that a decode step of one sequence reads.

    All initializers count except for tables of which rows are read. Of the weights of experts those of the chosen ones
    count, and all where the graph does not tell how many are chosen.

    Args:
        model: the lowered graph; equal weights that are stored once count once.
        halves: kernels hold float32 values that float16 represents exactly in 2 bytes.
    """
    read: dict[object, float] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for index, value in enumerate(node.inputs):
            if value is None or not value.is_initializer() or (node.op_type, index) in _ROW_TABLES:
                continue
            tensor = value.const_value
            assert tensor is not None
            # Tied weights are several initializers at one offset.
            key = (tensor.location, tensor.offset) if isinstance(tensor, ir.ExternalTensor) else value.name
            read[key] = tensor.nbytes * _share(node, index, tensor, halves)
    return round(sum(read.values()))


def _share(node: ir.Node, index: int, tensor: ir.TensorProtocol, halves: bool) -> float:
    """The share of a weight's bytes that is read."""
    share = 1.0
    if (node.op_type, index) == _HIGH_NIBBLES or (halves and _fits_float16(tensor)):
        share = 0.5
    if len(tensor.shape) == 1:  # of all experts, as a codebook
        return share
    count: int | None
    if index in expert_inputs(node):
        count = node.attributes["chosen"].as_int()
    elif index <= _CHOSEN or not (_EXPERTS in node.op_type or node.op_type == "QMoE"):
        return share
    else:
        count = _chosen_of_qmoe(node) if node.op_type == "QMoE" else _chosen(node)
    return share if count is None else share * count / tensor.shape.numpy()[0]


def _chosen(node: ir.Node) -> int | None:
    """How many experts a token chooses."""
    chosen = optional_input(node, _CHOSEN)
    count = chosen.shape[-1] if chosen is not None and chosen.shape is not None else None
    return count if isinstance(count, int) else None


def _chosen_of_qmoe(node: ir.Node) -> int | None:
    """Likewise, of a QMoE by `LowerToQMoE`, which gets a token once for each of its experts."""
    reshape = input_of(node, 0).producer()
    expand = input_of(reshape, 0).producer() if reshape is not None else None
    return int(values_of(input_of(expand, 1))[1]) if expand is not None and expand.op_type == "Expand" else None


def _values(tensor: ir.TensorProtocol) -> npt.NDArray[np.float32]:
    """The values of a float32 tensor in one row."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.numpy().reshape(-1)
    # An ExternalTensor would keep the file open, and a process may open 1024 or even fewer.
    return np.memmap(tensor.path, np.float32, "r", tensor.offset or 0, (tensor.size,))


def _fits_float16(tensor: ir.TensorProtocol) -> bool:
    if tensor.dtype != ir.DataType.FLOAT:
        return False
    values = _values(tensor)
    with np.errstate(over="ignore"):
        parts = (values[start : start + _CHECKED] for start in range(0, values.size, _CHECKED))
        return all(np.array_equal(part, part.astype(np.float16)) for part in parts)
