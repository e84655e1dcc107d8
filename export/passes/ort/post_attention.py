"""Fuse the seven nodes between two layers' attentions into edgekiln.ort::{...}PostAttention."""

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.define import DOMAIN, add_function
from edgekiln.export.functions.post_attention import (
    QUANTIZED_GEMMS,
    SKIP_RMS_NORM,
    QuantizedGemm,
    post_attention_function,
)
from edgekiln.export.functions.swiglu import NAME as SWIGLU
from edgekiln.export.passes.common.tensors import is_weight, make, move_uses, only_reader

_GEMMS = {(gemm.domain, gemm.op, 1 + len(gemm.weights)): gemm for gemm in QUANTIZED_GEMMS}


def gemm_of(node: ir.Node) -> QuantizedGemm | None:
    """The row of `QUANTIZED_GEMMS` for a node; None for other ops."""
    return _GEMMS.get((node.domain, node.op_type, len(node.inputs)))


def compatible(gemm: QuantizedGemm, nodes: Sequence[ir.Node]) -> bool:
    """Whether nodes of the op of `gemm` have weights and share the attributes that GEMMs of a function share."""
    return all(
        len(node.inputs) == 1 + len(gemm.weights)
        and all(map(is_weight, node.inputs[1:]))
        and all(node.attributes[name].value == nodes[0].attributes[name].value for name in gemm.shared)
        for node in nodes
    )


class FusePostAttention(InPlacePass):
    """Fuse GEMM, skip RMS norm, GEMM, SwiGLU, GEMM, skip RMS norm, GEMM into one PostAttention call.

    The GEMMs are the output, gate_up and down projections and the next layer's QKV projection. Their op decides:
        1. GroupBiasMatMulNBits: GroupBiasPostAttention;
        2. MatMulNBits with zero points: ZeroPointPostAttention, and without: SymmetricPostAttention;
        3. CodebookMatMulNBits: CodebookPostAttention;
        4. PerTokenInt8MatMul: PerTokenInt8PostAttention.

    Left alone are nodes with readers outside of the seven, and GEMMs that differ in op, bits or block size.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in list(model.graph):
            gemm = gemm_of(node)
            nodes = _match(node) if gemm else None
            if gemm and nodes and compatible(gemm, [nodes[i] for i in (0, 2, 4, 6)]):
                _replace(model, gemm, nodes)
                modified = True
        return PassResult(model, modified)


def _match(output: ir.Node) -> list[ir.Node] | None:
    """The seven nodes, beginning at the output projection; None if the nodes after it differ from the pattern."""
    nodes = [output]
    for op in (SKIP_RMS_NORM, None, SWIGLU, None, SKIP_RMS_NORM, None):
        following = only_reader(nodes[-1].outputs[0])
        if following is None or following.op_type != (op or output.op_type):
            return None
        nodes.append(following)
    first, second = nodes[1], nodes[5]
    for norm in (first, second):
        if len(norm.inputs) != 3 or len(norm.outputs) != 4 or norm.outputs[1].uses() or norm.outputs[2].uses():
            return None
    if nodes[-1].outputs[0].is_graph_output() or second.outputs[3].is_graph_output():
        return None
    after = first.outputs[3]
    return nodes if only_reader(after) is second and after in second.inputs[:2] else None


def _replace(model: ir.Model, gemm: QuantizedGemm, nodes: list[ir.Node]) -> None:
    output, norm, gate_up, _, down, next_norm, following = nodes
    residual = next(value for value in norm.inputs[:2] if value is not output.outputs[0])
    inputs = [output.inputs[0], residual, norm.inputs[2], next_norm.inputs[2]]
    for node in (output, gate_up, down, following):
        inputs += node.inputs[1:]
    attributes = {
        "attended": output.attributes["K"].as_int(),
        "hidden": output.attributes["N"].as_int(),
        "gate_up": gate_up.attributes["N"].as_int(),
        "intermediate": down.attributes["K"].as_int(),
        "projected": following.attributes["N"].as_int(),
        **{name: output.attributes[name].value for name in gemm.shared},
        "epsilon": norm.attributes["epsilon"].as_float(),
        "next_epsilon": next_norm.attributes["epsilon"].as_float(),
    }
    add_function(model, post_attention_function(gemm))
    name = f"{following.outputs[0].name}.post_attention"
    new = make(gemm.post_attention, inputs, name, domain=DOMAIN, outputs=2, **attributes)
    move_uses(model.graph, [following.outputs[0], next_norm.outputs[3]], new.outputs)
    model.graph.insert_before(next_norm, [new])
    for node in reversed(nodes):
        model.graph.remove(node, safe=True)
