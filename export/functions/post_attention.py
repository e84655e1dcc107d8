"""{GroupBias,ZeroPoint,Symmetric,Codebook,PerTokenInt8}PostAttention: a decoder layer from attention to the next one's.

Output projection, residual add and norm, gated feed-forward, residual add and norm, and the next layer's QKV
projection: seven nodes. In a decode step ONNX Runtime spends most of their time on calling them; as a kernel they are
one call.
"""

from dataclasses import dataclass
from typing import Final

import onnx
import onnx_ir as ir
from onnx import AttributeProto, helper

from edgekiln.export.functions import codebook_matmul, group_bias_matmul, per_token_int8, swiglu
from edgekiln.export.functions.define import DOMAIN, MICROSOFT, define, with_ref_attributes

SKIP_RMS_NORM: Final = "SkipSimplifiedLayerNormalization"
_SIZES = ("attended", "hidden", "gate_up", "intermediate", "projected")


@dataclass(frozen=True)
class QuantizedGemm:
    """A quantized matrix multiplication that post-attention and decoder-layer functions exist for.

    Attributes:
        prefix: prefix of these functions' names.
        op, domain: the op.
        weights: names of its inputs after x.
        shared_ints: its integer attributes, beside K and N, that all four GEMMs of a function must share.
        shared_int_lists: the same for attributes that are lists of integers.
        fixed: attribute -> the value that every node has.
    """

    prefix: str
    op: str
    domain: str
    weights: tuple[str, ...]
    shared_ints: tuple[str, ...] = ()
    shared_int_lists: tuple[str, ...] = ()
    fixed: tuple[tuple[str, int], ...] = ()

    @property
    def post_attention(self) -> str:
        """The name of the post-attention function."""
        return f"{self.prefix}PostAttention"

    @property
    def mixture(self) -> str:
        """The name of the post-attention function with a mixture of experts."""
        return f"{self.prefix}MixturePostAttention"

    @property
    def layers(self) -> dict[str, str]:
        """Name of a post-attention function -> the name of the decoder-layers function of such blocks."""
        return {self.post_attention: f"{self.prefix}DecoderLayers", self.mixture: f"{self.prefix}MixtureDecoderLayers"}

    @property
    def shared(self) -> tuple[str, ...]:
        """The attributes that all four GEMMs must share."""
        return (*self.shared_ints, *self.shared_int_lists)


QUANTIZED_GEMMS: Final = (
    QuantizedGemm(
        "GroupBias",
        group_bias_matmul.NAME,
        DOMAIN,
        ("blocks", "scales", "group_bias"),
        ("bits", "block_size"),
        ("group_shape",),
    ),
    QuantizedGemm(
        "ZeroPoint",
        "MatMulNBits",
        MICROSOFT,
        ("blocks", "scales", "zero_points"),
        ("bits", "block_size"),
        fixed=(("accuracy_level", 4),),
    ),
    QuantizedGemm(
        "Symmetric",
        "MatMulNBits",
        MICROSOFT,
        ("blocks", "scales"),
        ("bits", "block_size"),
        fixed=(("accuracy_level", 4),),
    ),
    QuantizedGemm("Codebook", codebook_matmul.NAME, DOMAIN, ("blocks", "scales", "codebook"), ("bits", "block_size")),
    QuantizedGemm("PerTokenInt8", per_token_int8.NAME, DOMAIN, ("codes", "scales")),
)


def post_attention_function(gemm: QuantizedGemm) -> ir.Function:
    """The seven nodes as a function.

    Inputs: attended float [..., A], residual float [..., H], gamma and next_gamma float [H], and the weights of the
    output, gate_up, down and next (QKV) projections. Outputs: projected float [..., P], the next layer's query, key and
    value, and sum float [..., H], its residual.

    Attributes: the sizes attended (A), hidden (H), intermediate (I), gate_up (2 I) and projected (P); epsilon and
    next_epsilon of the norms; those that `gemm` shares.
    """

    def multiply(x: str, weight: str, k: str, n: str, to: str) -> onnx.NodeProto:
        inputs = [x, *(f"{weight}_{part}" for part in gemm.weights)]
        node = helper.make_node(gemm.op, inputs, [to], domain=gemm.domain)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in gemm.fixed)
        names = {"K": k, "N": n, **{name: name for name in gemm.shared_ints}}
        with_ref_attributes(node, AttributeProto.INT, **names)
        return with_ref_attributes(node, AttributeProto.INTS, **{name: name for name in gemm.shared_int_lists})

    def norm(residual: str, x: str, gamma: str, epsilon: str, to: str, total: str) -> onnx.NodeProto:
        node = helper.make_node(SKIP_RMS_NORM, [residual, x, gamma], [to, "", "", total], domain=MICROSOFT)
        return with_ref_attributes(node, AttributeProto.FLOAT, epsilon=epsilon)

    nodes = [
        multiply("attended", "output", "attended", "hidden", "output"),
        norm("residual", "output", "gamma", "epsilon", "normed", "after"),
        multiply("normed", "gate_up", "hidden", "gate_up", "gate_up"),
        helper.make_node(swiglu.NAME, ["gate_up"], ["gated"], domain=DOMAIN),
        multiply("gated", "down", "intermediate", "hidden", "down"),
        norm("after", "down", "next_gamma", "next_epsilon", "next_normed", "sum"),
        multiply("next_normed", "next", "hidden", "projected", "projected"),
    ]
    weights = [f"{weight}_{part}" for weight in ("output", "gate_up", "down", "next") for part in gemm.weights]
    inputs = ["attended", "residual", "gamma", "next_gamma", *weights]
    attributes = [*_SIZES, "epsilon", "next_epsilon", *gemm.shared]
    return define(gemm.post_attention, inputs, ["projected", "sum"], nodes, attributes)
