"""{scheme}{scheme}MixtureOfExperts: what the experts of each token do, from their projections to the weighted sum.

The first scheme is that of the gate and up projection, the second that of the down projection. As a kernel, the
activations of an expert stay in the cache, and a decode step calls ONNX Runtime once instead of five times.
"""

from dataclasses import dataclass
from typing import Final

import onnx
import onnx_ir as ir
from onnx import AttributeProto, helper

from edgekiln.export.functions import expert_matmul, swiglu
from edgekiln.export.functions.define import DOMAIN, define, with_ref_attributes


@dataclass(frozen=True)
class ExpertProduct:
    """A product with the weights of experts that mixtures are made of.

    Attributes:
        prefix: what names of mixtures have for it.
        op: of the domain `edgekiln.ort`.
        weights: names of its inputs after x and index.
        ints: its integer attributes, beside K and N.
        int_lists: its attributes that are lists of integers.
    """

    prefix: str
    op: str
    weights: tuple[str, ...]
    ints: tuple[str, ...] = ()
    int_lists: tuple[str, ...] = ()


_GROUPS = ("bits", "block_size")
EXPERT_PRODUCTS: Final = (
    ExpertProduct("ZeroPoint", expert_matmul.NBITS, ("blocks", "scales", "zero_points"), _GROUPS),
    ExpertProduct("Symmetric", expert_matmul.SYMMETRIC, ("blocks", "scales"), _GROUPS),
    ExpertProduct("GroupBias", expert_matmul.GROUP_BIAS, ("blocks", "scales", "group_bias"), _GROUPS, ("group_shape",)),
    ExpertProduct("Codebook", expert_matmul.CODEBOOK, ("blocks", "scales", "codebook"), _GROUPS),
    ExpertProduct("PerTokenInt8", expert_matmul.PER_TOKEN_INT8, ("codes", "scales")),
)


def mixture_name(gate_up: ExpertProduct, down: ExpertProduct) -> str:
    """The name of the function for two products."""
    return f"{gate_up.prefix}{down.prefix}MixtureOfExperts"


def mixture_function(gate_up: ExpertProduct, down: ExpertProduct) -> ir.Function:
    """y[t] = the sum over j of gates[t, j] · down(swiglu(gate_up(x[t]))), with the weights of expert index[t, j].

    Inputs: x float [T, 1, H], index int64[T, k], gates float [T, k, 1], and the weights of both products. Output: y
    float [T, H].
    Attributes: the sizes hidden (H), intermediate (I) and gate_up (2 I); gate_up_NAME and down_NAME for each further
    attribute NAME of the products.
    """

    def multiply(product: ExpertProduct, name: str, x: str, k: str, n: str, to: str) -> onnx.NodeProto:
        inputs = [x, "index", *(f"{name}_{part}" for part in product.weights)]
        node = helper.make_node(product.op, inputs, [to], domain=DOMAIN)
        names = {"K": k, "N": n, **{each: f"{name}_{each}" for each in product.ints}}
        with_ref_attributes(node, AttributeProto.INT, **names)
        return with_ref_attributes(node, AttributeProto.INTS, **{each: f"{name}_{each}" for each in product.int_lists})

    nodes = [
        helper.make_node("Constant", [], ["slots"], value_ints=[1]),
        multiply(gate_up, "gate_up", "x", "hidden", "gate_up", "projected"),
        helper.make_node(swiglu.NAME, ["projected"], ["gated"], domain=DOMAIN),
        multiply(down, "down", "gated", "intermediate", "hidden", "outputs"),
        helper.make_node("Mul", ["outputs", "gates"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "slots"], ["y"], keepdims=0),
    ]
    products = {"gate_up": gate_up, "down": down}
    weights = [f"{name}_{part}" for name, product in products.items() for part in product.weights]
    attributes = [
        f"{name}_{each}" for name, product in products.items() for each in (*product.ints, *product.int_lists)
    ]
    inputs = ["x", "index", "gates", *weights]
    return define(mixture_name(gate_up, down), inputs, ["y"], nodes, ["hidden", "intermediate", "gate_up", *attributes])
