"""Fuse both projections of experts, SwiGLU and the weighted sum into edgekiln.ort::{...}MixtureOfExperts."""

from typing import Any, NamedTuple

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.define import DOMAIN, add_function
from edgekiln.export.functions.mixture_of_experts import EXPERT_PRODUCTS, mixture_function, mixture_name
from edgekiln.export.functions.swiglu import NAME as SWIGLU
from edgekiln.export.passes.common.expert_blocks import sums_over_experts
from edgekiln.export.passes.common.tensors import is_weight, make, only_reader, replace_node

_PRODUCTS = {product.op: product for product in EXPERT_PRODUCTS}


class FuseMixtureOfExperts(InPlacePass):
    """Fuse ReduceSum(gates · down(swiglu(gate_up(x)))) over the experts of a token into one call.

    The ops of the projections decide on the name, see `mixture_name`. Left alone are experts with other activations,
    biases or norms, with an input for each expert, and those in floating point.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in list(model.graph):
            mixture = _match(node) if node.domain == DOMAIN and node.op_type in _PRODUCTS else None
            if mixture:
                _replace(model, mixture)
                modified = True
        return PassResult(model, modified)


class _Mixture(NamedTuple):
    gate_up: ir.Node
    swiglu: ir.Node
    down: ir.Node
    weighted: ir.Node
    total: ir.Node
    gates: ir.Value


def _match(gate_up: ir.Node) -> _Mixture | None:
    """The mixture that begins with a projection; None if the nodes after it differ from the pattern."""
    nodes = [gate_up]
    for _ in range(4):
        following = only_reader(nodes[-1].outputs[0])
        if following is None:
            return None
        nodes.append(following)
    _, swiglu, down, weighted, total = nodes
    if (swiglu.op_type, weighted.op_type) != (SWIGLU, "Mul") or not sums_over_experts(total):
        return None
    if down.op_type not in _PRODUCTS or down.inputs[1] is not gate_up.inputs[1]:
        return None
    if not all(map(is_weight, (*gate_up.inputs[2:], *down.inputs[2:]))):
        return None
    gates = next(value for value in weighted.inputs if value is not down.outputs[0])
    x, index = gate_up.inputs[:2]
    if gates is None or x is None or index is None or not _fit(x, index, gates, gate_up, down):
        return None
    return _Mixture(gate_up, swiglu, down, weighted, total, gates)


def _fit(x: ir.Value, index: ir.Value, gates: ir.Value, gate_up: ir.Node, down: ir.Node) -> bool:
    """Whether a token has one input, and each of its experts a gate."""
    if x.shape is None or index.shape is None or gates.shape is None or len(gates.shape) != 3:
        return False
    chosen, inner = index.shape[-1], down.attributes["K"].as_int()
    return (
        x.shape[1] == 1
        and isinstance(chosen, int)
        and list(gates.shape[1:]) == [chosen, 1]
        and gate_up.attributes["N"].as_int() == 2 * inner
        and down.attributes["N"].as_int() == gate_up.attributes["K"].as_int()
    )


def _replace(model: ir.Model, mixture: _Mixture) -> None:
    gate_up, swiglu, down, weighted, total, gates = mixture
    products = {"gate_up": (gate_up, _PRODUCTS[gate_up.op_type]), "down": (down, _PRODUCTS[down.op_type])}
    attributes: dict[str, Any] = {
        "hidden": gate_up.attributes["K"].as_int(),
        "intermediate": down.attributes["K"].as_int(),
        "gate_up": gate_up.attributes["N"].as_int(),
    }
    for name, (node, product) in products.items():
        for each in (*product.ints, *product.int_lists):
            attributes[f"{name}_{each}"] = node.attributes[each].value
    first, second = products["gate_up"][1], products["down"][1]
    add_function(model, mixture_function(first, second))
    inputs = [*gate_up.inputs[:2], gates, *gate_up.inputs[2:], *down.inputs[2:]]
    name = f"{total.outputs[0].name}.mixture"
    new = make(mixture_name(first, second), inputs, name, domain=DOMAIN, **attributes)
    replace_node(total, [new], [new.outputs[0]])
    for node in (weighted, down, swiglu, gate_up):
        model.graph.remove(node, safe=True)
