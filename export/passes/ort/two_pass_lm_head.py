"""Logits in two steps, as a function of MatMulNBits: who picks the next token needs the largest ones exactly.

edgekiln's native kernel multiplies the upper 4 of the 8 bits with all tokens and the lower 4 with those that come near
the largest, and so reads half of what is, in a small model, a third of all weights.
"""

from typing import Final

import onnx
import onnx_ir as ir
from onnx import helper

from edgekiln.export.functions import define as ort_functions
from edgekiln.export.passes.common.tensors import is_weight, make, replace_node

NAME = "TwoPassMatMulNBits"
# Logits within this of the largest are of 8 bits; others, of 4, stand for less than e^-13 of the largest's probability.
MARGIN: Final = 13.0
_NUMBERS = ("K", "N", "bits", "block_size", "accuracy_level")
_BITS = 8


def two_pass_lm_head_function() -> ir.Function:
    """x float [..., K], blocks uint8 [N, K / block_size, block_size], scales float and zero points uint8
    [N, K / block_size] to logits float [..., N]. `margin` is the kernel's: here all logits are of 8 bits.
    """
    inputs = ["x", "blocks", "scales", "zero_points"]
    product = helper.make_node("MatMulNBits", inputs, ["logits"], domain="com.microsoft")
    ort_functions.handed_on(product, onnx.AttributeProto.INT, **{name: name for name in _NUMBERS})
    return ort_functions.define(NAME, inputs, ["logits"], [product], [*_NUMBERS, "margin"])


def shortlist_logits(model: ir.Model) -> None:
    """Find the product that gives the logits, in place; one of other than 8 bits stays."""
    node = model.graph.outputs[0].producer()
    if node is None or node.op_type != "MatMulNBits" or not all(map(is_weight, node.inputs[1:])):
        return
    numbers = {name: node.attributes[name].as_int() for name in _NUMBERS if name in node.attributes}
    if len(numbers) != len(_NUMBERS) or numbers["bits"] != _BITS:
        return
    ort_functions.declare(model, two_pass_lm_head_function())
    name = f"{node.outputs[0].name}.shortlist"
    new = make(NAME, node.inputs, name, domain=ort_functions.DOMAIN, **numbers, margin=MARGIN)
    replace_node(node, [new], new.outputs)


def inline_shortlist(model: ir.Model) -> None:
    """Write the function out again, in place, for who needs every logit of 8 bits."""
    ort_functions.write_out(model, (NAME,))
