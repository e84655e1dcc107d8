"""What lies between one decoder layer's attention and the next one's, as a function of the ops it is made of.

The attention's output projection, a norm, a gated feed-forward, a norm and the next projections: seven nodes, most of
whose time in a decode step is what ONNX Runtime takes to call them. In edgekiln's native kernel they are one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import AttributeProto, helper

from edgekiln.export.functions import define as ort_functions
from edgekiln.export.functions.group_bias_matmul import NAME as OFFSET_MATMUL
from edgekiln.export.functions.per_token_int8 import NAME as ROW_QUANTIZED_MATMUL
from edgekiln.export.passes.common.tensors import is_weight, make, only_reader
from edgekiln.export.passes.ort.swiglu import NAME as GATED_SILU

_NORM = "SkipSimplifiedLayerNormalization"
_SIZES = ("attended", "hidden", "gate_up", "intermediate", "projected")


@dataclass(frozen=True)
class Product:
    """A kind of product that the kernel has.

    Attributes:
        kind: what functions of such products are called by.
        op: op and domain of the product.
        weight: what its inputs after x are called.
        shared: integer attributes that all four products have alike, beside K and N.
        rest: attributes of other kinds that they have alike, with the kind.
        fixed: attributes that every one has.
    """

    kind: str
    op: tuple[str, str]
    weight: tuple[str, ...]
    shared: tuple[str, ...] = ()
    rest: tuple[tuple[str, int], ...] = ()
    fixed: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        """Of the function."""
        return f"{self.kind}PostAttention"


PRODUCTS = (
    Product(
        "GroupBias",
        (OFFSET_MATMUL, ort_functions.DOMAIN),
        ("blocks", "scales", "offsets"),
        ("bits", "block_size"),
        (("by_group", AttributeProto.INTS),),
    ),
    Product(
        "ZeroPoint",
        ("MatMulNBits", "com.microsoft"),
        ("blocks", "scales", "zero_points"),
        ("bits", "block_size"),
        fixed=(("accuracy_level", 4),),
    ),
    Product("PerTokenInt8", (ROW_QUANTIZED_MATMUL, ort_functions.DOMAIN), ("codes", "scales")),
)


def post_attention_function(product: Product) -> ir.Function:
    """attended float [..., A], residual float [..., H], gamma and next_gamma float [H] and four weights to projected
    float [..., P] and sum float [..., H], which is the next residual.

    Attributes attended (A), hidden (H), intermediate (I), gate_up (2 I) and projected (P) are the sizes, epsilon and
    next_epsilon the norms'.
    """

    def multiply(x: str, weight: str, depth: str, columns: str, to: str) -> onnx.NodeProto:
        op, domain = product.op
        inputs = [x, *(f"{weight}_{part}" for part in product.weight)]
        node = helper.make_node(op, inputs, [to], domain=domain)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in product.fixed)
        names = {"K": depth, "N": columns, **{name: name for name in product.shared}}
        ort_functions.handed_on(node, AttributeProto.INT, **names)
        for name, kind in product.rest:
            ort_functions.handed_on(node, kind, **{name: name})
        return node

    def norm(residual: str, x: str, gamma: str, epsilon: str, to: str, total: str) -> onnx.NodeProto:
        node = helper.make_node(_NORM, [residual, x, gamma], [to, "", "", total], domain="com.microsoft")
        return ort_functions.handed_on(node, AttributeProto.FLOAT, epsilon=epsilon)

    nodes = [
        multiply("attended", "output", "attended", "hidden", "output"),
        norm("residual", "output", "gamma", "epsilon", "normed", "after"),
        multiply("normed", "gate_up", "hidden", "gate_up", "gate_up"),
        helper.make_node(GATED_SILU, ["gate_up"], ["gated"], domain=ort_functions.DOMAIN),
        multiply("gated", "down", "intermediate", "hidden", "down"),
        norm("after", "down", "next_gamma", "next_epsilon", "next_normed", "sum"),
        multiply("next_normed", "next", "hidden", "projected", "projected"),
    ]
    weights = [f"{weight}_{part}" for weight in ("output", "gate_up", "down", "next") for part in product.weight]
    inputs = ["attended", "residual", "gamma", "next_gamma", *weights]
    attributes = [*_SIZES, "epsilon", "next_epsilon", *product.shared, *(name for name, _ in product.rest)]
    return ort_functions.define(product.name, inputs, ["projected", "sum"], nodes, attributes)


def fuse_post_attention(model: ir.Model) -> None:
    """Find the seven nodes, in place; where another node reads what is between them, or a weight is of another kind
    than the others, they stay.
    """
    for node in list(model.graph):
        product = next((each for each in PRODUCTS if (node.op_type, node.domain) == each.op), None)
        found = _chain(node) if product else None
        if product and found and _alike(product, [found[i] for i in (0, 2, 4, 6)]):
            _replace(model, product, found)


def _chain(output: ir.Node) -> list[ir.Node] | None:
    """The seven nodes from the attention's output projection on."""
    nodes = [output]
    for op in (_NORM, None, GATED_SILU, None, _NORM, None):
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


def _alike(product: Product, nodes: Sequence[ir.Node]) -> bool:
    names = [*product.shared, *(name for name, _ in product.rest)]
    return all(
        len(node.inputs) == 1 + len(product.weight)
        and all(map(is_weight, node.inputs[1:]))
        and all(node.attributes[name].value == nodes[0].attributes[name].value for name in names)
        for node in nodes
    )


def _replace(model: ir.Model, product: Product, nodes: list[ir.Node]) -> None:
    output, norm, gate_up, _, down, next_norm, following = nodes
    residual = next(value for value in norm.inputs[:2] if value is not output.outputs[0])
    products = [output, gate_up, down, following]
    inputs = [output.inputs[0], residual, norm.inputs[2], next_norm.inputs[2]]
    for node in products:
        inputs += node.inputs[1:]
    numbers = {
        "attended": output.attributes["K"].as_int(),
        "hidden": output.attributes["N"].as_int(),
        "gate_up": gate_up.attributes["N"].as_int(),
        "intermediate": down.attributes["K"].as_int(),
        "projected": following.attributes["N"].as_int(),
        **{name: output.attributes[name].value for name in (*product.shared, *(name for name, _ in product.rest))},
        "epsilon": norm.attributes["epsilon"].as_float(),
        "next_epsilon": next_norm.attributes["epsilon"].as_float(),
    }
    ort_functions.declare(model, post_attention_function(product))
    name = f"{following.outputs[0].name}.between"
    new = make(product.name, inputs, name, domain=ort_functions.DOMAIN, outputs=2, **numbers)
    for value, old in zip(new.outputs, (following.outputs[0], next_norm.outputs[3]), strict=True):
        value.shape, value.type = old.shape, old.type
        ir.convenience.replace_all_uses_with(old, value)
    model.graph.insert_before(next_norm, [new])
    for node in reversed(nodes):
        model.graph.remove(node, safe=True)
