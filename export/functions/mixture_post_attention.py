"""{GroupBias,ZeroPoint,Symmetric,Codebook,PerTokenInt8}MixturePostAttention: a decoder layer with a mixture of experts
from its attention to the next one's.

Some 17 nodes, from the output projection over the router and the experts to the next layer's QKV projection, are one
call as a kernel.
"""

from dataclasses import dataclass
from typing import Any, Final

import onnx_ir as ir
from onnx import helper

from edgekiln.export.functions.decoder_layers import INT8_CACHE_SUFFIX
from edgekiln.export.functions.define import copied, define
from edgekiln.export.functions.post_attention import QUANTIZED_GEMMS, QuantizedGemm
from edgekiln.export.functions.router import Router

# Inputs of the function before the constants, and constants before the weights.
_VALUES, _VECTORS = 2, 3
_GEMMS: Final = {
    name + suffix: gemm
    for gemm in QUANTIZED_GEMMS
    for block, layers in gemm.layers.items()
    if block == gemm.mixture
    for name, suffix in ((block, ""), (layers, ""), (layers, INT8_CACHE_SUFFIX))
}


@dataclass(frozen=True)
class MixtureBlock:
    """The nodes of a graph that the function replaces, but for Reshapes and the like.

    Attributes:
        gemm: the op of `output` and `following`; the experts' products have its prefix.
        output: the output projection.
        norm, next_norm: SkipSimplifiedLayerNormalization after the attention and after the experts.
        mixture: MixtureOfExperts.
        following: the next layer's QKV projection.
        router: the router.
    """

    gemm: QuantizedGemm
    output: ir.Node
    norm: ir.Node
    router: Router
    mixture: ir.Node
    next_norm: ir.Node
    following: ir.Node

    @property
    def constants(self) -> list[ir.Value | None]:
        """The constant inputs of the function, in their order."""
        vectors = [self.norm.inputs[2], self.next_norm.inputs[2], self.router.weight]
        weights = [*self.output.inputs[1:], *self.mixture.inputs[3:], *self.following.inputs[1:]]
        return [*vectors, *weights, *self.router.biases.values()]

    @property
    def attributes(self) -> dict[str, Any]:
        """Sizes as in PostAttention, with `intermediate` and `gate_up` of one expert; the epsilons of the norms; what
        the GEMMs share; attributes of the experts' products, beginning with gate_up_ and down_; and the router's.
        """
        return {
            "attended": self.output.attributes["K"].as_int(),
            "projected": self.following.attributes["N"].as_int(),
            **{name: attribute.value for name, attribute in self.mixture.attributes.items()},
            **{name: self.output.attributes[name].value for name in self.gemm.shared},
            "epsilon": self.norm.attributes["epsilon"].as_float(),
            "next_epsilon": self.next_norm.attributes["epsilon"].as_float(),
            **self.router.attributes,
        }


def mixture_post_attention_function(block: MixtureBlock) -> ir.Function:
    """The nodes of a block as a function; all blocks of a graph that call it have its attributes.

    Inputs: attended float [..., A], residual float [..., H], gamma and next_gamma float [H], router float [E, H], the
    weights of the output projection, of the experts' gate_up and down projections and of the next (QKV) projection, and
    the biases that the router has, float [E]. Outputs: projected float [..., P], the next layer's query, key and value,
    and sum float [..., H], its residual.
    """
    attributes = block.attributes
    parts = block.gemm.weights
    weights = {name: [f"{name}_{part}" for part in parts] for name in ("output", "gate_up", "down", "next")}
    nodes = [
        copied(block.output, ["attended", *weights["output"]], ["output"]),
        copied(block.norm, ["residual", "output", "gamma"], ["normed", "", "", "after"]),
        helper.make_node("Constant", [], ["rows"], value_ints=[-1, attributes["hidden"]]),
        helper.make_node("Reshape", ["normed", "rows"], ["x"]),
        *block.router.function_nodes(),
        helper.make_node("Constant", [], ["slots"], value_ints=[1]),
        helper.make_node("Constant", [], ["one_gate"], value_ints=[2]),
        helper.make_node("Unsqueeze", ["x", "slots"], ["token"]),
        helper.make_node("Unsqueeze", ["gates", "one_gate"], ["gate"]),
        copied(block.mixture, ["token", "index", "gate", *weights["gate_up"], *weights["down"]], ["mixed"]),
        helper.make_node("Shape", ["normed"], ["shape"]),
        helper.make_node("Reshape", ["mixed", "shape"], ["experts"]),
        copied(block.next_norm, ["after", "experts", "next_gamma"], ["next_normed", "", "", "sum"]),
        copied(block.following, ["next_normed", *weights["next"]], ["projected"]),
    ]
    vectors = ["gamma", "next_gamma", "router"]
    inputs = ["attended", "residual", *vectors, *(name for each in weights.values() for name in each)]
    inputs += block.router.biases
    return define(block.gemm.mixture, inputs, ["projected", "sum"], nodes, list(attributes))


def expert_inputs(node: ir.Node) -> frozenset[int]:
    """The inputs of a node that are weights of all experts, for MixturePostAttention and MixtureDecoderLayers; none for
    other ops.
    """
    gemm = _GEMMS.get(node.op_type)
    if gemm is None:
        return frozenset()
    parts = len(gemm.weights)
    biases = sum(node.attributes[name].as_int() for name in ("router_biased", "choice_biased"))
    constants = _VECTORS + 4 * parts + biases
    first = _VALUES
    if node.op_type != gemm.mixture:
        first = len(node.inputs) - constants * (len(node.attributes["windows"].as_ints()) - 1)
    own = [i for i, part in enumerate(gemm.weights) if part != "codebook"]  # which all experts share
    experts = [_VECTORS + weight * parts + i for weight in (1, 2) for i in own]
    return frozenset(start + i for start in range(first, len(node.inputs), constants) for i in experts)
