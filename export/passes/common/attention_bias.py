"""What is added to the scores of an edgekiln::Attention, by position: masks and ALiBi, in standard ops."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from edgekiln.export.passes.common.tensors import attribute, constant, make, optional_input, values_of

# Far below any score and inside the range of float16: a fully masked query stays finite.
MASKED = -30000.0
_SINKS, _SLOPES = 6, 7


@dataclass(frozen=True)
class BiasKind:
    """The attributes and inputs of an edgekiln::Attention that a bias depends on; see `edgekiln.export.canonical`.

    Attributes:
        window, chunk: in tokens; 0 for none.
        slopes: values of the ALiBi slopes, H floats; empty for none.
        rounded_scale: with `bfloat16_alibi`, the scale; else 0.
    """

    window: int = 0
    chunk: int = 0
    slopes: tuple[float, ...] = ()
    rounded_scale: float = 0.0

    @classmethod
    def of(cls, attention: ir.Node) -> "BiasKind":
        """That of a node."""
        slopes = optional_input(attention, _SLOPES)
        rounded = "bfloat16_alibi" in attention.attributes
        return cls(
            window=int(attribute(attention, "window")),
            chunk=chunk_of(attention),
            slopes=() if slopes is None else tuple(values_of(slopes).tolist()),
            rounded_scale=float(attribute(attention, "scale")) if rounded else 0.0,
        )

    @property
    def name(self) -> str:
        """A prefix for names of values."""
        parts = [f"{self.window}", f"chunk{self.chunk}" if self.chunk else ""]
        if self.slopes:
            parts.append(f"alibi{abs(hash((self.slopes, self.rounded_scale))):x}")
        return ".".join(part for part in parts if part)


def chunk_of(attention: ir.Node) -> int:
    """The attention chunk of an edgekiln::Attention, 0 for none."""
    return int(attribute(attention, "chunk")) if "chunk" in attention.attributes else 0


def sinks_of(attention: ir.Node) -> ir.Value | None:
    """The sinks [H] of an edgekiln::Attention."""
    return optional_input(attention, _SINKS)


@dataclass
class BiasNodes:
    """Makes the nodes of a bias.

    Attributes:
        graph: gets the constants.
        name: prefix of names.
        nodes: the nodes made so far.
    """

    graph: ir.Graph
    name: str
    nodes: list[ir.Node]

    def add(self, op: str, inputs: Sequence[ir.Value | None], suffix: str, **attributes: Any) -> ir.Value:
        """Make a node."""
        self.nodes.append(make(op, inputs, f"{self.name}.{suffix}", **attributes))
        return self.nodes[-1].outputs[0]

    def integer(self, value: int) -> ir.Value:
        """An int64 constant."""
        return constant(self.graph, f"mask.int.{value}", np.array(value, dtype=np.int64))

    def number(self, value: float) -> ir.Value:
        """A float32 constant."""
        return constant(self.graph, f"mask.float.{value}", np.array(value, dtype=np.float32))

    def all_of(self, conditions: list[ir.Value]) -> ir.Value:
        """The conjunction of conditions."""
        result = conditions[0]
        for i, condition in enumerate(conditions[1:]):
            result = self.add("And", [result, condition], f"visible.{i}")
        return result

    def in_chunk(self, keys: ir.Value, queries: ir.Value, chunk: int) -> ir.Value:
        """Whether a key is in its query's chunk, or after it; positions broadcast to [B, 1, S, T]."""
        size = self.integer(chunk)
        index = self.add("Div", [queries, size], "chunk_index")
        return self.add("GreaterOrEqual", [keys, self.add("Mul", [index, size], "chunk_start")], "in_chunk")

    def alibi(self, keys: ir.Value, queries: ir.Value, kind: BiasKind) -> ir.Value:
        """The biases of ALiBi, [B, H, S, T].

        Args:
            keys, queries: int64, positions that broadcast to [B, 1, S, T].
            kind: with slopes.
        """
        array = np.array(kind.slopes, dtype=np.float32).reshape(1, -1, 1, 1)
        if kind.rounded_scale:
            array = array.astype(ml_dtypes.bfloat16).astype(np.float32)
        slopes = constant(self.graph, f"{self.name}.slopes", array)
        if not kind.rounded_scale:
            distances = self.add("Cast", [self.add("Sub", [keys, queries], "distances")], "floats", to=_FLOAT)
            return self.add("Mul", [slopes, distances], "alibi")
        biases = []
        for part, positions in (("keys", keys), ("queries", queries)):
            floats = self.add("Cast", [positions], f"{part}.floats", to=_FLOAT)
            product = self.add("Mul", [slopes, self._rounded(floats, f"{part}.position")], f"{part}.product")
            biases.append(self._rounded(product, f"{part}.bias"))
        difference = self.add("Sub", biases, "bias_difference")
        return self.add("Mul", [difference, self.number(kind.rounded_scale)], "alibi")

    def _rounded(self, value: ir.Value, suffix: str) -> ir.Value:
        """Rounded to bfloat16 and back."""
        rounded = self.add("Cast", [value], f"{suffix}.bfloat16", to=ir.DataType.BFLOAT16.value)
        return self.add("Cast", [rounded], f"{suffix}.rounded", to=_FLOAT)


_FLOAT = ir.DataType.FLOAT.value
