"""The QKV prologue: ops between a layer's packed QKV projection and its attention.

Cases:
    1. none: GroupQueryAttention takes the packed query, key and value;
    2. a bias is added to them (Qwen 2);
    3. each head of query and key has an RMS norm (Qwen 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import helper

from edgekiln.export.passes.common.tensors import shape_of

HEAD_NORM = "SimplifiedLayerNormalization"


@dataclass(frozen=True)
class QKVPrologue:
    """The prologue of one attention.

    Attributes:
        projected: float [B, S, P], the packed query, key and value.
        nodes: the nodes between `projected` and the attention, in order.
        constants: the bias [P]; or the gamma [D] of the query norm and of the key norm; or nothing.
        biased, normed: 1 in case 2, in case 3.
        head_epsilon: epsilon of the norms.
        split_sizes: in case 3 the widths of query, key and value.
    """

    projected: ir.Value
    nodes: tuple[ir.Node, ...] = ()
    constants: tuple[ir.Value, ...] = ()
    biased: int = 0
    normed: int = 0
    head_epsilon: float = 0.0
    split_sizes: tuple[int, ...] = ()

    @property
    def attributes(self) -> dict[str, int | float]:
        """The attributes of a decoder-layers function, which all its layers must share."""
        return {"biased": self.biased, "normed": self.normed, "head_epsilon": self.head_epsilon}

    def function_nodes(
        self, projected: str, constants: Sequence[str], prefix: str
    ) -> tuple[list[onnx.NodeProto], list[str]]:
        """The prologue as nodes of a function.

        Args:
            projected: name of the packed projections in the function.
            constants: names of `self.constants` in the function.
            prefix: prefix of the names of new values.

        Returns:
            The nodes, and the names of the attention's first three inputs.
        """
        if self.biased:
            return [helper.make_node("Add", [projected, *constants], [f"{prefix}biased"])], [f"{prefix}biased", "", ""]
        if not self.normed:
            return [], [projected, "", ""]
        (head_dim,) = shape_of(self.constants[0])
        parts = [f"{prefix}{part}" for part in ("query", "key", "value")]
        nodes = [
            helper.make_node("Constant", [], [f"{prefix}sizes"], value_ints=self.split_sizes),
            helper.make_node("Constant", [], [f"{prefix}heads"], value_ints=[0, 0, -1, head_dim]),
            helper.make_node("Split", [projected, f"{prefix}sizes"], parts, axis=-1),
        ]
        # The value is not normed.
        for part, gamma, size in zip(parts[:2], constants, self.split_sizes[:2], strict=True):
            heads = [f"{part}.heads", gamma]
            nodes += [
                helper.make_node("Reshape", [part, f"{prefix}heads"], [f"{part}.heads"]),
                helper.make_node(
                    HEAD_NORM, heads, [f"{part}.normed"], axis=-1, epsilon=self.head_epsilon, stash_type=1
                ),
                helper.make_node("Constant", [], [f"{part}.shape"], value_ints=[0, 0, size]),
                helper.make_node("Reshape", [f"{part}.normed", f"{part}.shape"], [f"{part}.flat"]),
            ]
        return nodes, [f"{parts[0]}.flat", f"{parts[1]}.flat", parts[2]]
