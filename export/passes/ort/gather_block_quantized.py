"""Lower QuantizedGather to com.microsoft::GatherBlockQuantized."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.define import MICROSOFT
from edgekiln.export.passes.common.quantized_ops import QuantizedOp, quantized_gathers
from edgekiln.export.passes.common.tensors import constant, make, replace_node, sizes_of
from edgekiln.export.passes.ort.packed_weights import group_shape, packed_zero_points


class LowerToGatherBlockQuantized(InPlacePass):
    """Replace QuantizedGather by GatherBlockQuantized over the same bytes, which a tied LM head shares.

    Cases:
        1. no group bias: one node;
        2. a group bias: the biases are gathered too and added to each group.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for op in quantized_gathers(model):
            _lower(model.graph, op)
            modified = True
        return PassResult(model, modified)


def _lower(graph: ir.Graph, op: QuantizedOp) -> None:
    inputs = [op.qweight, op.x, op.scales]
    if op.zero_points is not None:
        inputs.append(packed_zero_points(graph, op.zero_points, op.bits))
    name = f"{op.name}.gathered"
    nodes = [
        make(
            "GatherBlockQuantized",
            inputs,
            name,
            domain=MICROSOFT,
            bits=op.bits,
            block_size=op.group_size,
            gather_axis=0,
            quantize_axis=1,
        )
    ]
    if op.group_bias is not None:
        gathered = nodes[0].outputs[0]
        gathered.shape = op.node.outputs[0].shape
        nodes += _added_bias(graph, op, gathered, op.group_bias)
    replace_node(op.node, nodes, [nodes[-1].outputs[0]])


def _added_bias(graph: ir.Graph, op: QuantizedOp, gathered: ir.Value, group_bias: ir.Value) -> list[ir.Node]:
    """Nodes that add the group bias to gathered embeddings [..., K]; the last one's output is the sum."""
    name, rank, split = gathered.name, len(sizes_of(gathered)), group_shape(gathered, op.group_size)
    last = constant(graph, "last_axis", np.array([-1], dtype=np.int64))
    whole = constant(graph, f"rows.{rank}", np.array([*[0] * (rank - 1), -1], dtype=np.int64))
    split_shape = constant(graph, f"groups.{'.'.join(map(str, split))}", np.array(split, dtype=np.int64))
    groups = make("Reshape", [gathered, split_shape], f"{name}.groups")
    bias = make("Gather", [group_bias, op.x], f"{name}.bias", axis=0)
    column = make("Unsqueeze", [bias.outputs[0], last], f"{name}.bias_column")
    total = make("Add", [groups.outputs[0], column.outputs[0]], f"{name}.biased")
    result = make("Reshape", [total.outputs[0], whole], f"{name}.flat")
    return [groups, bias, column, total, result]
