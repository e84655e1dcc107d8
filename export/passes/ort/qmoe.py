"""Lower quantized experts to com.microsoft::QMoE, for CUDA."""

from typing import Any, Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, common

from edgekiln.export.functions.define import MICROSOFT
from edgekiln.export.passes.common.expert_blocks import ExpertBlock, chosen_experts, expert_blocks
from edgekiln.export.passes.common.quantized_ops import QuantizedExpertOp
from edgekiln.export.passes.common.tensors import (
    Array,
    constant,
    dtype_of,
    input_of,
    make,
    new_initializer,
    shape_of,
    sizes_of,
    values_of,
)
from edgekiln.export.passes.ort.expert_activation import ExpertActivation, match_activation
from edgekiln.export.passes.ort.packed_weights import packed_zero_points

# The kernels take weights of so many inputs at a time, and these groups of them.
_TILE: Final = 64
_GROUP_SIZES: Final = (128, 64, 32)


class LowerToQMoE(InPlacePass):
    """Replace the experts of a layer by one QMoE, which reads the weights of chosen experts only.

    QMoE has a router of its own, and on CUDA it does not read its input `router_weights`. So it gets each pair of a
    token and a chosen expert as a token with one expert, whose gate is then 1, and the model's gates are applied to
    its outputs.

    Experts that QMoE does not compute exactly are left alone:
        1. with a group bias or a codebook, or a different number of bits in the two products;
        2. in groups of less than 32, or with sizes that are not a multiple of 64;
        3. with an activation other than SwiGLU, SiLU and ReLU.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for block in expert_blocks(model):
            activation, group_size = _supported_activation(block), _group_size(block)
            if activation is not None and group_size is not None:
                _lower(model.graph, block, activation, group_size)
                modified = True
        if modified:
            common.RemoveUnusedNodesPass()(model)
        return PassResult(model, modified)


def _supported_activation(block: ExpertBlock) -> ExpertActivation | None:
    """The activation of experts that QMoE computes exactly."""
    if len(block.first) != 1 or len(block.first_bias) > 1:
        return None
    first, down = block.first[0], block.down
    if any(op.activation != "none" or op.group_bias is not None or op.codebook for op in (first, down)):
        return None
    if first.bits != down.bits:
        return None
    if any(_inputs(op) % _TILE for op in (first, down)) or sizes_of(down.qweight)[1] != _inputs(first):
        return None
    activation = match_activation(down.x)
    if activation is None or activation.source not in _biased_outputs(block):
        return None
    return activation


def _group_size(block: ExpertBlock) -> int | None:
    """The largest groups that both products can be in; a scale is repeated for the parts of its group."""
    ops = [*block.first, block.down]
    return next((size for size in _GROUP_SIZES if all(_in_groups_of(op, size) for op in ops)), None)


def _in_groups_of(op: QuantizedExpertOp, size: int) -> bool:
    if not op.group_size or op.group_size % size:
        return False
    # The kernels misread 4-bit zero points of an odd number of groups, as of ONNX Runtime 1.31.
    return op.zero_points is None or op.bits != 4 or _inputs(op) // size % 2 == 0


def _inputs(op: QuantizedExpertOp) -> int:
    return shape_of(op.scales)[2] * op.group_size


def _biased_outputs(block: ExpertBlock) -> list[ir.Value]:
    """The output of the first product, with its bias if it has one."""
    outputs = block.first[0].node.outputs
    if not block.first_bias:
        return list(outputs)
    readers = [use.node for use in block.first_bias[0].outputs[0].uses()]
    return [node.outputs[0] for node in readers if node.op_type == "Add" and outputs[0] in node.inputs]


def _lower(graph: ir.Graph, block: ExpertBlock, activation: ExpertActivation, group_size: int) -> None:
    first, down, name = block.first[0], block.down, block.down.name
    hidden, experts, chosen = _inputs(first), block.experts, sizes_of(block.index)[1]
    new: list[ir.Node] = chosen_experts(graph, block.index, experts, name)

    def add(op: str, inputs: list[ir.Value | None], suffix: str, **attributes: Any) -> ir.Value:
        new.append(make(op, inputs, f"{name}.{suffix}", **attributes))
        return new[-1].outputs[0]

    def ints(*values: object) -> ir.Value:
        return constant(graph, "ints." + ".".join(map(str, values)), np.array(values, dtype=np.int64))

    selection = add("Reshape", [new[-1].outputs[0], ints(-1, experts)], "selection")
    repeated = add("Expand", [first.x, ints(1, chosen, 1)], "repeated_tokens")
    pairs = add("Reshape", [repeated, ints(-1, hidden)], "pairs")
    first_bias = input_of(block.first_bias[0], 0) if block.first_bias else None
    codes, scales, bias, zero_points = _weight(graph, first, first_bias, group_size)
    down_codes, down_scales, down_bias, down_zero_points = _weight(graph, down, block.down_bias, group_size)
    if activation.kind == "swiglu" and not activation.interleaved:
        codes, scales, bias, zero_points = (_in_turns(graph, value) for value in (codes, scales, bias, zero_points))
    inputs = [pairs, selection, codes, scales, bias, down_codes, down_scales, down_bias]
    inputs += [None, None, None, zero_points, down_zero_points]
    attributes: dict[str, Any] = {"activation_type": activation.kind}
    if activation.kind == "swiglu":
        attributes |= {"swiglu_fusion": 1, "activation_alpha": activation.alpha, "activation_beta": activation.beta}
        if activation.limit is not None:
            attributes["swiglu_limit"] = activation.limit
    outputs = add(
        "QMoE",
        inputs,
        "qmoe",
        domain=MICROSOFT,
        k=1,
        expert_weight_bits=first.bits,
        block_size=group_size,
        normalize_routing_weights=1,
        weights_prepacked=0,
        **attributes,
    )
    outputs = add("Reshape", [outputs, ints(-1, chosen, hidden)], "outputs")
    total = add("MatMul", [add("Unsqueeze", [block.gates, ints(1)], "gates"), outputs], "total")
    add("Reshape", [total, ints(-1, hidden)], "weighted_sum")
    block.replace(new)


def _weight(graph: ir.Graph, op: QuantizedExpertOp, bias: ir.Value | None, size: int) -> list[ir.Value | None]:
    """Codes, scales, bias and zero points of a weight in groups of `size`; None where absent."""
    scales, zero_points = (_repeated(graph, value, op.group_size // size) for value in (op.scales, op.zero_points))
    packed = None if zero_points is None else packed_zero_points(graph, zero_points, op.bits)
    return [op.qweight, scales, bias, packed]


def _repeated(graph: ir.Graph, value: ir.Value | None, times: int) -> ir.Value | None:
    """Each value of an initializer [E, N, groups] so many times, [E, N, groups · times]."""
    if value is None or times == 1:
        return value
    *rows, groups = shape_of(value)
    name, shape = f"{value.name}.{times}_times", (*rows, groups * times)
    return new_initializer(graph, name, shape, dtype_of(value), lambda: np.repeat(values_of(value), times, axis=-1))


def _in_turns(graph: ir.Graph, value: ir.Value | None) -> ir.Value | None:
    """The rows of an initializer [E, 2 · I, ...], halves of gate and up, in turns, as QMoE's SwiGLU reads them."""
    if value is None:
        return None
    experts, n, *rest = shape_of(value)

    def values() -> Array:
        halves = values_of(value).reshape(experts, 2, n // 2, *rest)
        return halves.swapaxes(1, 2).reshape(experts, n, *rest)

    return new_initializer(graph, f"{value.name}.in_turns", (experts, n, *rest), dtype_of(value), values)
