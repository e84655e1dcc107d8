"""The router of a mixture of experts, as nodes of a function."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import onnx
import onnx_ir as ir
from onnx import helper

# What becomes of the logits: their softmax, from which experts are chosen; the softmax of the chosen logits; or their
# sigmoids, from which experts are chosen.
SOFTMAX: Final = "softmax"
SOFTMAX_OF_CHOSEN: Final = "softmax_of_chosen"
SIGMOID: Final = "sigmoid"


@dataclass(frozen=True)
class Router:
    """Which experts a token chooses, and with which gates.

    Attributes:
        weight: float [E, H], which gives the logits.
        chosen: experts a token.
        score: `SOFTMAX`, `SOFTMAX_OF_CHOSEN` or `SIGMOID`.
        bias: float [E], of the logits.
        choice_bias: float [E], added to the scores to choose, but not for gates.
        normalized: gates are divided by their sum plus `sum_epsilon`.
        scale: factor of the gates.
    """

    weight: ir.Value
    chosen: int
    score: str
    bias: ir.Value | None = None
    choice_bias: ir.Value | None = None
    normalized: bool = False
    sum_epsilon: float = 0.0
    scale: float = 1.0

    @property
    def biases(self) -> dict[str, ir.Value]:
        """Name in the function -> the biases that the router has."""
        both = {"router_bias": self.bias, "choice_bias": self.choice_bias}
        return {name: value for name, value in both.items() if value is not None}

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Attributes of a function with this router."""
        return {
            "chosen": self.chosen,
            "score": self.score,
            "router_biased": int(self.bias is not None),
            "choice_biased": int(self.choice_bias is not None),
            "gates_normalized": int(self.normalized),
            "gate_epsilon": self.sum_epsilon,
            "gate_scale": self.scale,
        }

    def function_nodes(self) -> list[onnx.NodeProto]:
        """The router as nodes of a function.

        They read x float [T, H], router [E, H] and what is in `biases`, and write index int64[T, k] and gates float
        [T, k].
        """
        biases = ["router_bias"] if self.bias is not None else []
        nodes = [
            helper.make_node("Constant", [], ["count"], value_ints=[self.chosen]),
            helper.make_node("Gemm", ["x", "router", *biases], ["logits"], transB=1),
        ]
        scores, chosen = "logits", "chosen"
        if self.score != SOFTMAX_OF_CHOSEN:
            scores = "scores"
            op, axis = ("Softmax", {"axis": -1}) if self.score == SOFTMAX else ("Sigmoid", {})
            nodes.append(helper.make_node(op, ["logits"], [scores], **axis))  # type: ignore[arg-type]
        preferences = scores
        if self.choice_bias is not None:
            preferences = "preferences"
            nodes.append(helper.make_node("Add", [scores, "choice_bias"], [preferences]))
        nodes.append(helper.make_node("TopK", [preferences, "count"], [chosen, "index"], axis=-1))
        if self.choice_bias is not None:
            chosen = "chosen_scores"
            nodes.append(helper.make_node("GatherElements", [scores, "index"], [chosen], axis=1))
        if self.score == SOFTMAX_OF_CHOSEN:
            nodes.append(helper.make_node("Softmax", [chosen], ["softmax"], axis=-1))
            chosen = "softmax"
        if self.normalized:
            nodes += [
                helper.make_node("Constant", [], ["last"], value_ints=[-1]),
                helper.make_node("ReduceSum", [chosen, "last"], ["total"], keepdims=1),
                helper.make_node("Constant", [], ["sum_epsilon"], value_float=self.sum_epsilon),
                helper.make_node("Add", ["total", "sum_epsilon"], ["divisor"]),
                helper.make_node("Div", [chosen, "divisor"], ["normalized"]),
            ]
            chosen = "normalized"
        # Adding 0 to a sum and multiplying by 1 change no bits.
        return [
            *nodes,
            helper.make_node("Constant", [], ["factor"], value_float=self.scale),
            helper.make_node("Mul", [chosen, "factor"], ["gates"]),
        ]
