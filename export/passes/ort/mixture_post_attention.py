"""Fuse the nodes between two layers' attentions, with a mixture of experts, into {...}MixturePostAttention."""

from typing import NamedTuple

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.decoder_layers import attribute_values
from edgekiln.export.functions.define import DOMAIN, add_function
from edgekiln.export.functions.mixture_of_experts import EXPERT_PRODUCTS, mixture_name
from edgekiln.export.functions.mixture_post_attention import MixtureBlock, mixture_post_attention_function
from edgekiln.export.functions.post_attention import QUANTIZED_GEMMS, SKIP_RMS_NORM
from edgekiln.export.functions.router import Router
from edgekiln.export.passes.common.tensors import input_of, make, move_uses, only_reader, shape_of, sizes_of
from edgekiln.export.passes.ort.post_attention import compatible, gemm_of
from edgekiln.export.passes.ort.router import match_router

_PREFIXES = {mixture_name(product, product): product.prefix for product in EXPERT_PRODUCTS}
_NAMES = frozenset(gemm.mixture for gemm in QUANTIZED_GEMMS)


class FuseMixturePostAttention(InPlacePass):
    """Fuse GEMM, skip RMS norm, router, mixture of experts, skip RMS norm and GEMM into one MixturePostAttention call.

    The GEMMs are the output projection and the next layer's QKV projection; they and the experts' products have weights
    of one kind, which decides on the name as in `FusePostAttention`. `match_router` has the kinds of routers.

    Left alone are nodes with readers outside of these, layers with shared experts, and layers that differ from the
    first one in sizes or router.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        first = {node.op_type: attribute_values(node) for node in model.graph if node.op_type in _NAMES}
        modified = False
        for node in list(model.graph):
            match = _match(node) if node.domain == DOMAIN and node.op_type in _PREFIXES else None
            if match is None:
                continue
            attributes = match.block.attributes
            if first.setdefault(match.block.gemm.mixture, attributes) == attributes:
                _replace(model, match)
                modified = True
        return PassResult(model, modified)


class _Match(NamedTuple):
    """A block, the nodes that it consists of, and the residual before it."""

    block: MixtureBlock
    nodes: set[ir.Node]
    residual: ir.Value


def _match(mixture: ir.Node) -> _Match | None:
    """The block around a mixture; None if the nodes around it differ from the pattern."""
    head, tail = _head(mixture), _tail(mixture)
    if head is None or tail is None:
        return None
    router, norm, head_nodes = head
    next_norm, following = tail[1:]
    output, gemm = _output(norm, following), gemm_of(following)
    if output is None or gemm is None or norm.outputs[3] not in next_norm.inputs[:2]:
        return None
    block = MixtureBlock(gemm, output, norm, router, mixture, next_norm, following)
    nodes = {output, *head_nodes, mixture, *tail}
    if not _fits(block) or _is_read_outside(nodes, {following.outputs[0], next_norm.outputs[3]}):
        return None
    residual = input_of(norm, 1) if norm.inputs[0] is output.outputs[0] else input_of(norm, 0)
    return _Match(block, nodes, residual)


def _head(mixture: ir.Node) -> tuple[Router, ir.Node, list[ir.Node]] | None:
    """The router of a mixture, the norm whose output both read, and all nodes from there to the mixture."""
    token, index, gate = (input_of(mixture, i) for i in range(3))
    of_token, of_gate = _unsqueezed(token, (1,)), _unsqueezed(gate, (-1, 2))
    routed = match_router(index, input_of(of_gate, 0)) if of_gate is not None else None
    if of_token is None or of_gate is None or routed is None:
        return None
    width = mixture.attributes["hidden"].as_int()
    normed, reshapes = _not_reshaped(input_of(of_token, 0), width)
    normed_too, more_reshapes = _not_reshaped(routed.x, width)
    norm = normed.producer()
    if normed is not normed_too or norm is None or not _is_skip_norm(norm) or normed is not norm.outputs[0]:
        return None
    return routed.router, norm, [norm, *reshapes, *more_reshapes, *routed.nodes, of_token, of_gate]


def _is_read_outside(nodes: set[ir.Node], results: set[ir.Value]) -> bool:
    """Whether other nodes read values of `nodes` that are no results, or the graph has any as output."""
    values = [value for node in nodes for value in node.outputs]
    inside = [value for value in values if value not in results]
    return any(value.is_graph_output() for value in values) or any(
        use.node not in nodes for value in inside for use in value.uses()
    )


def _unsqueezed(value: ir.Value, axes: tuple[int, ...]) -> ir.Node | None:
    """The Unsqueeze that computes `value`, along one of `axes`."""
    node = value.producer()
    if node is None or node.op_type != "Unsqueeze":
        return None
    tensor = ir.convenience.get_const_tensor(input_of(node, 1))
    return node if tensor is not None and tensor.numpy().tolist() in [[axis] for axis in axes] else None


def _not_reshaped(value: ir.Value, width: int) -> tuple[ir.Value, list[ir.Node]]:
    """What is reshaped to rows of `width` values, and the Reshapes."""
    nodes: list[ir.Node] = []
    while (node := value.producer()) is not None and node.op_type == "Reshape" and sizes_of(value)[1:] == [width]:
        nodes.append(node)
        value = input_of(node, 0)
    return value, nodes


def _tail(mixture: ir.Node) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """Reshape, norm and the next projection after a mixture."""
    back = only_reader(mixture.outputs[0])
    norm = only_reader(back.outputs[0]) if back is not None and back.op_type == "Reshape" else None
    following = only_reader(norm.outputs[0]) if norm is not None and _is_skip_norm(norm) else None
    return None if back is None or norm is None or following is None else (back, norm, following)


def _is_skip_norm(node: ir.Node) -> bool:
    return node.op_type == SKIP_RMS_NORM and len(node.inputs) == 3 and len(node.outputs) == 4


def _output(norm: ir.Node, following: ir.Node) -> ir.Node | None:
    """The projection that the norm adds to the residual, of the op of the next projection."""
    for value in norm.inputs[:2]:
        node = value.producer() if value is not None else None
        if node is not None and gemm_of(node) is gemm_of(following) and only_reader(value) is norm:
            return node
    return None


def _fits(block: MixtureBlock) -> bool:
    """Whether the weights are of one kind, and their sizes are those of a block."""
    hidden = block.mixture.attributes["hidden"].as_int()
    experts = shape_of(input_of(block.mixture, 3))[0]
    return (
        _PREFIXES[block.mixture.op_type] == block.gemm.prefix
        and compatible(block.gemm, [block.output, block.following])
        and shape_of(block.router.weight) == (experts, hidden)
        and block.output.attributes["N"].as_int() == hidden
        and block.following.attributes["K"].as_int() == hidden
    )


def _replace(model: ir.Model, match: _Match) -> None:
    block, nodes, residual = match
    add_function(model, mixture_post_attention_function(block))
    inputs = [block.output.inputs[0], residual, *block.constants]
    name = f"{block.following.outputs[0].name}.post_attention"
    new = make(block.gemm.mixture, inputs, name, domain=DOMAIN, outputs=2, **block.attributes)
    move_uses(model.graph, [block.following.outputs[0], block.next_norm.outputs[3]], new.outputs)
    model.graph.insert_before(block.next_norm, [new])
    for node in reversed([node for node in model.graph if node in nodes]):
        model.graph.remove(node, safe=True)
