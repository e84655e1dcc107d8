"""Products of tokens with the weights of their experts: ExpertMatMul and, with quantized weights,
{,Symmetric,GroupBias,Codebook}ExpertMatMulNBits and PerTokenInt8ExpertMatMul.

As functions, they loop over the experts and multiply the tokens of each: right everywhere, and slow. edgekiln's kernels
take their place.
"""

from collections.abc import Sequence
from typing import Final

import onnx
import onnx_ir as ir
from onnx import AttributeProto, TensorProto, helper

from edgekiln.export.functions import codebook_matmul, group_bias_matmul, per_token_int8
from edgekiln.export.functions.define import DOMAIN, MICROSOFT, define, with_ref_attributes

FLOAT: Final = "ExpertMatMul"
NBITS: Final = "ExpertMatMulNBits"
SYMMETRIC: Final = "SymmetricExpertMatMulNBits"
GROUP_BIAS: Final = "GroupBiasExpertMatMulNBits"
CODEBOOK: Final = "CodebookExpertMatMulNBits"
PER_TOKEN_INT8: Final = "PerTokenInt8ExpertMatMul"
_SIZES: Final = ("K", "N")
_GROUPS: Final = ("bits", "block_size")


def float_function() -> ir.Function:
    """y[t, j] = x[t, j] · weight[index[t, j]]ᵀ.

    Inputs: x float [T, 1 or k, K], index int64[T, k], weight float [E, N, K]. Output: y float [T, k, N].
    Attributes: K, N.
    """
    nodes = [
        helper.make_node("Transpose", ["expert_weight"], ["matrix"], perm=[1, 0]),
        helper.make_node("MatMul", ["rows", "matrix"], ["products"]),
    ]
    return _function(FLOAT, ["weight"], nodes, _SIZES)


def nbits_function(symmetric: bool) -> ir.Function:
    """The same with a weight of 4 or 8 bits in groups, as com.microsoft::MatMulNBits has it.

    Inputs: x and index as in `float_function`, blocks uint8 [E, N, groups, block_size · bits / 8], scales float
    [E, N, groups], and unless `symmetric` zero_points uint8 [E, N, ceil(groups · bits / 8)]. Output: as in
    `float_function`. Attributes: K, N, bits, block_size.
    """
    weights = ["blocks", "scales"] if symmetric else ["blocks", "scales", "zero_points"]
    inputs = ["rows", *(f"expert_{name}" for name in weights)]
    node = helper.make_node("MatMulNBits", inputs, ["products"], domain=MICROSOFT, accuracy_level=4)
    names = (*_SIZES, *_GROUPS)
    with_ref_attributes(node, AttributeProto.INT, **{name: name for name in names})
    return _function(SYMMETRIC if symmetric else NBITS, weights, [node], names)


def group_bias_function() -> ir.Function:
    """The same with a float bias a group, see `group_bias_matmul`.

    Inputs: x, index, blocks and scales as in `nbits_function`, group_bias float [E, N, groups]. Output: as in
    `float_function`. Attributes: K, N, bits, block_size, and group_shape, as of `group_bias_matmul`.
    """
    weights = ["blocks", "scales", "group_bias"]
    inputs = ["rows", *(f"expert_{name}" for name in weights)]
    node = helper.make_node(group_bias_matmul.NAME, inputs, ["products"], domain=DOMAIN)
    names = (*_SIZES, *_GROUPS)
    with_ref_attributes(node, AttributeProto.INT, **{name: name for name in names})
    with_ref_attributes(node, AttributeProto.INTS, group_shape="group_shape")
    return _function(GROUP_BIAS, weights, [node], (*names, "group_shape"))


def codebook_function() -> ir.Function:
    """The same with 4-bit codes that index a codebook, see `codebook_matmul`.

    Inputs: x, index, blocks and scales as in `nbits_function`, codebook int8 [16], that of all experts. Output: as in
    `float_function`. Attributes: K, N, bits, block_size.
    """
    node = helper.make_node(
        codebook_matmul.NAME, ["rows", "expert_blocks", "expert_scales", "codebook"], ["products"], domain=DOMAIN
    )
    names = (*_SIZES, *_GROUPS)
    with_ref_attributes(node, AttributeProto.INT, **{name: name for name in names})
    return _function(CODEBOOK, ["blocks", "scales"], [node], names, shared=["codebook"])


def per_token_int8_function() -> ir.Function:
    """The same with int8 weights and activations, see `per_token_int8`.

    Inputs: x and index as in `float_function`, codes int8 [E, K, N], scales float [E, N]. Output: as in
    `float_function`. Attributes: K, N.
    """
    weights = ["codes", "scales"]
    inputs = ["rows", *(f"expert_{name}" for name in weights)]
    node = helper.make_node(per_token_int8.NAME, inputs, ["products"], domain=DOMAIN)
    with_ref_attributes(node, AttributeProto.INT, **{name: name for name in _SIZES})
    return _function(PER_TOKEN_INT8, weights, [node], _SIZES)


def _function(
    name: str,
    weights: Sequence[str],
    product: Sequence[onnx.NodeProto],
    attributes: Sequence[str],
    shared: Sequence[str] = (),
) -> ir.Function:
    """A loop over the experts.

    Args:
        name: of the function.
        weights: its inputs after x and index, each with a first axis for the experts.
        product: nodes that multiply `rows` float [R, K] with the weights `expert_NAME` of one expert to `products`.
        attributes: of the function.
        shared: further inputs, which all experts share.
    """
    nodes = [
        helper.make_node("Constant", [], ["any_size"], value_ints=[-1]),
        *_size("K"),
        *_size("N"),
        helper.make_node("Shape", ["index"], ["chosen"]),
        # A pair is a token with one of its experts.
        helper.make_node("Concat", ["chosen", "K_size"], ["x_shape"], axis=0),
        helper.make_node("Expand", ["x", "x_shape"], ["x_of_each"]),
        helper.make_node("Concat", ["any_size", "K_size"], ["pairs_shape"], axis=0),
        helper.make_node("Reshape", ["x_of_each", "pairs_shape"], ["pairs"]),
        helper.make_node("Reshape", ["index", "any_size"], ["pairs_index"]),
        helper.make_node("Size", ["pairs_index"], ["pair_count"]),
        helper.make_node("Reshape", ["pair_count", "any_size"], ["pairs_size"]),
        helper.make_node("Concat", ["pairs_size", "N_size"], ["products_shape"], axis=0),
        helper.make_node("ConstantOfShape", ["products_shape"], ["zeros"]),
        helper.make_node("Shape", [weights[0]], ["experts_size"], start=0, end=1),
        helper.make_node("Squeeze", ["experts_size"], ["experts"]),
        helper.make_node("Loop", ["experts", "", "zeros"], ["all_products"], body=_loop_body(weights, product)),
        helper.make_node("Concat", ["chosen", "N_size"], ["y_shape"], axis=0),
        helper.make_node("Reshape", ["all_products", "y_shape"], ["y"]),
    ]
    return define(name, ["x", "index", *weights, *shared], ["y"], nodes, attributes)


def _size(attribute: str) -> list[onnx.NodeProto]:
    """Nodes that give an attribute of the function as int64[1]."""
    scalar = helper.make_node("Constant", [], [f"{attribute}_scalar"])
    return [
        with_ref_attributes(scalar, AttributeProto.INT, value_int=attribute),
        helper.make_node("Reshape", [f"{attribute}_scalar", "any_size"], [f"{attribute}_size"]),
    ]


def _loop_body(weights: Sequence[str], product: Sequence[onnx.NodeProto]) -> onnx.GraphProto:
    """One expert: its products, in place of the zeros of its pairs."""
    multiply = [
        *(helper.make_node("Gather", [name, "expert"], [f"expert_{name}"]) for name in weights),
        helper.make_node("Gather", ["pairs", "numbers"], ["rows"]),
        *product,
        helper.make_node("Unsqueeze", ["numbers", "minus_one"], ["places"]),
        helper.make_node("ScatterND", ["before", "places", "products"], ["added"]),
    ]
    unchanged = [helper.make_node("Identity", ["before"], ["kept"])]

    def branch(name: str, nodes: Sequence[onnx.NodeProto], output: str) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [_value(output, TensorProto.FLOAT, 2)])

    nodes = [
        helper.make_node("Constant", [], ["minus_one"], value_ints=[-1]),
        helper.make_node("Constant", [], ["none"], value_int=0),
        helper.make_node("Equal", ["pairs_index", "expert"], ["is_chosen"]),
        helper.make_node("NonZero", ["is_chosen"], ["numbers_matrix"]),
        helper.make_node("Reshape", ["numbers_matrix", "minus_one"], ["numbers"]),
        helper.make_node("Size", ["numbers"], ["number"]),
        helper.make_node("Greater", ["number", "none"], ["has_pairs"]),
        helper.make_node(
            "If",
            ["has_pairs"],
            ["after"],
            then_branch=branch("multiply", multiply, "added"),
            else_branch=branch("skip", unchanged, "kept"),
        ),
        helper.make_node("Identity", ["condition"], ["next_condition"]),
    ]
    inputs = [
        _value("expert", TensorProto.INT64, 0),
        _value("condition", TensorProto.BOOL, 0),
        _value("before", TensorProto.FLOAT, 2),
    ]
    outputs = [_value("next_condition", TensorProto.BOOL, 0), _value("after", TensorProto.FLOAT, 2)]
    return helper.make_graph(nodes, "expert_loop", inputs, outputs)


def _value(name: str, kind: int, rank: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [None] * rank)
