"""Replace the LM head's com.microsoft::MatMulNBits by edgekiln.ort::TwoPassMatMulNBits, and inline it again."""

from typing import Final

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.define import DOMAIN, InlineFunctions, add_function
from edgekiln.export.functions.two_pass_lm_head import BITS, NAME, SIZES, two_pass_lm_head_function
from edgekiln.export.passes.common.tensors import is_weight, make, replace_node

# Tokens whose 4-bit logit is further from the maximum get no second pass; each has less than e^-13 of the probability
# of the best token.
MARGIN: Final = 13.0


class FuseTwoPassLMHead(InPlacePass):
    """Replace the 8-bit MatMulNBits that produces the logits by TwoPassMatMulNBits."""

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        node = model.graph.outputs[0].producer()
        if node is None or node.op_type != "MatMulNBits" or not all(map(is_weight, node.inputs[1:])):
            return PassResult(model, False)
        sizes = {name: node.attributes[name].as_int() for name in SIZES if name in node.attributes}
        if len(sizes) != len(SIZES) or sizes["bits"] != BITS:
            return PassResult(model, False)
        add_function(model, two_pass_lm_head_function())
        name = f"{node.outputs[0].name}.two_pass"
        new = make(NAME, node.inputs, name, domain=DOMAIN, **sizes, margin=MARGIN)
        replace_node(node, [new], new.outputs)
        return PassResult(model, True)


class InlineTwoPassLMHead(InlineFunctions):
    """Inline TwoPassMatMulNBits to MatMulNBits, for a graph whose logits must all be exact."""

    def __init__(self) -> None:
        super().__init__((NAME,))
