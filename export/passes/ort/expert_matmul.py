"""Lower ExpertMatMul and QuantizedExpertMatMul to functions of edgekiln.ort."""

from typing import Any

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export import canonical
from edgekiln.export.functions import codebook_matmul, expert_matmul, group_bias_matmul, per_token_int8
from edgekiln.export.functions.define import DOMAIN, add_function
from edgekiln.export.passes.common.per_channel import transposed_codes
from edgekiln.export.passes.common.quantized_ops import QuantizedExpertOp, quantized_expert_matmuls
from edgekiln.export.passes.common.tensors import inputs_of, make, name_of, replace_node, shape_of, sizes_of
from edgekiln.export.passes.ort.packed_weights import (
    blocks,
    codebook_values,
    has_integer_codebook,
    packed_zero_points,
)


class LowerExpertMatMul(InPlacePass):
    """Replace products of tokens with the weights of their experts.

    Cases:
        1. ExpertMatMul: edgekiln.ort::ExpertMatMul;
        2. QuantizedExpertMatMul in groups, with zero points: ExpertMatMulNBits;
        3. without: SymmetricExpertMatMulNBits;
        4. with a group bias: GroupBiasExpertMatMulNBits;
        5. with a codebook of integers: CodebookExpertMatMulNBits;
        6. per channel, with per-token int8 activations: PerTokenInt8ExpertMatMul.

    Raises:
        ValueError: a node has another codebook.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for op in quantized_expert_matmuls(model):
            (_lower_groups if op.group_size else _lower_per_channel)(model, op)
            modified = True
        for node in list(model.graph):
            if (node.domain, node.op_type) == (canonical.DOMAIN, "ExpertMatMul"):
                _lower_float(model, node)
                modified = True
        return PassResult(model, modified)


def _lower_groups(model: ir.Model, op: QuantizedExpertOp) -> None:
    graph = model.graph
    inputs = [op.x, op.index, blocks(graph, op), op.scales]
    _, n, groups = shape_of(op.scales)
    attributes: dict[str, Any] = {
        "K": groups * op.group_size,
        "N": n,
        "bits": op.bits,
        "block_size": op.group_size,
    }
    if op.codebook:
        if not has_integer_codebook(op):
            raise ValueError(f"{op.name} has the codebook {op.codebook}, which is not of integers")
        add_function(model, codebook_matmul.codebook_matmul_function())
        function = expert_matmul.codebook_function()
        inputs.append(codebook_values(graph, op))
    elif op.group_bias is not None:
        add_function(model, group_bias_matmul.group_bias_matmul_function())
        function = expert_matmul.group_bias_function()
        inputs.append(op.group_bias)
        attributes["group_shape"] = [0, -1, op.group_size]
    else:
        function = expert_matmul.nbits_function(symmetric=op.zero_points is None)
        if op.zero_points is not None:
            inputs.append(packed_zero_points(graph, op.zero_points, op.bits))
    _replace(model, op.node, function, inputs, attributes)


def _lower_per_channel(model: ir.Model, op: QuantizedExpertOp) -> None:
    _, n, k = shape_of(op.qweight)
    add_function(model, per_token_int8.per_token_int8_function())
    inputs = [op.x, op.index, transposed_codes(model.graph, op.qweight), op.scales]
    _replace(model, op.node, expert_matmul.per_token_int8_function(), inputs, {"K": k, "N": n})


def _lower_float(model: ir.Model, node: ir.Node) -> None:
    inputs = inputs_of(node, 3)
    n, k = sizes_of(inputs[2])[1:]
    _replace(model, node, expert_matmul.float_function(), inputs, {"K": k, "N": n})


def _replace(
    model: ir.Model, node: ir.Node, function: ir.Function, inputs: list[ir.Value], attributes: dict[str, Any]
) -> None:
    add_function(model, function)
    new = make(function.name, inputs, f"{name_of(node)}.experts", domain=DOMAIN, **attributes)
    replace_node(node, [new], [new.outputs[0]])
