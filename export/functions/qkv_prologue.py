"""The QKV prologue: ops between a layer's packed QKV projection and its attention.

Cases:
    1. none: GroupQueryAttention takes the packed query, key and value;
    2. a bias is added to them (Qwen 2);
    3. each head of query and key has an RMS norm (Qwen 3);
    4. query and key have an RMS norm over all heads (OLMoE).
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
        constants: the bias [P]; or the gammas of the query norm and of the key norm, [D] or as wide as all heads; or
            nothing.
        biased, normed, joint: 1 in case 2, in cases 3 and 4, in case 4.
        head_epsilon: epsilon of the norms.
        split_sizes: in cases 3 and 4 the widths of query, key and value.
    """

    projected: ir.Value
    nodes: tuple[ir.Node, ...] = ()
    constants: tuple[ir.Value, ...] = ()
    biased: int = 0
    normed: int = 0
    joint: int = 0
    head_epsilon: float = 0.0
    split_sizes: tuple[int, ...] = ()

    @property
    def attributes(self) -> dict[str, int | float]:
        """The attributes of a decoder-layers function, which all its layers must share."""
        flags = {"biased": self.biased, "normed": self.normed, "joint": self.joint}
        return {**flags, "head_epsilon": self.head_epsilon}

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
        parts = [f"{prefix}{part}" for part in ("query", "key", "value")]
        nodes = [
            helper.make_node("Constant", [], [f"{prefix}sizes"], value_ints=self.split_sizes),
            helper.make_node("Split", [projected, f"{prefix}sizes"], parts, axis=-1),
        ]
        if not self.joint:
            (head_dim,) = shape_of(self.constants[0])
            nodes.append(helper.make_node("Constant", [], [f"{prefix}heads"], value_ints=[0, 0, -1, head_dim]))
        # The value is not normed.
        for part, gamma, size in zip(parts[:2], constants, self.split_sizes[:2], strict=True):
            nodes += self._norm(part, gamma) if self.joint else self._norm_of_heads(part, gamma, f"{prefix}heads", size)
        return nodes, [f"{parts[0]}.flat", f"{parts[1]}.flat", parts[2]]

    def _norm(self, part: str, gamma: str, to: str = "flat") -> list[onnx.NodeProto]:
        """The norm of `part` over its last axis."""
        attributes = {"axis": -1, "epsilon": self.head_epsilon, "stash_type": 1}
        return [helper.make_node(HEAD_NORM, [part, gamma], [f"{part}.{to}"], **attributes)]  # type: ignore[arg-type]

    def _norm_of_heads(self, part: str, gamma: str, heads: str, size: int) -> list[onnx.NodeProto]:
        """The norm of each head of `part`, which has `size` values; `heads` is the shape that splits it into heads."""
        return [
            helper.make_node("Reshape", [part, heads], [f"{part}.heads"]),
            *self._norm(f"{part}.heads", gamma, "normed"),
            helper.make_node("Constant", [], [f"{part}.shape"], value_ints=[0, 0, size]),
            helper.make_node("Reshape", [f"{part}.heads.normed", f"{part}.shape"], [f"{part}.flat"]),
        ]
