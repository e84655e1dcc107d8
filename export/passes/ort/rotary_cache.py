"""Rotary caches: the cosines and sines of all positions as initializers, for GroupQueryAttention's own rotation.

However a model computes its angles (plain, YaRN, Llama 3's scaling), they depend on the position alone. So the cache is
computed by running the graph's own nodes over all positions once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from edgekiln.export.passes.common.tensors import ancestors, constant


@dataclass(frozen=True)
class RotaryCache:
    """cos and sin: float32 [max_length, rotary_dim / 2]."""

    cos: ir.Value
    sin: ir.Value


class RotaryCaches:
    """The rotary caches of a graph; equal ones are shared between layers.

    Args:
        model: the graph, which gets the initializers.
        max_length: positions of a cache.
        max_bytes: bytes that the cosines and sines of all positions may take as float32.
    """

    def __init__(self, model: ir.Model, max_length: int, max_bytes: int) -> None:
        self._model = model
        self._max_length = max_length
        self._max_bytes = max_bytes
        self._found: dict[tuple[ir.Value, ir.Value], RotaryCache | None] = {}
        self._by_bytes: dict[bytes, ir.Value] = {}

    def of(self, cos: ir.Value, sin: ir.Value, rotary_dim: int) -> RotaryCache | None:
        """The cache that replaces RotaryEmbedding's cos and sin [B, S, rotary_dim / 2].

        Returns:
            None if they depend on more than the position, or the cache would be too large.
        """
        if self._max_length * rotary_dim * np.float32().itemsize > self._max_bytes:
            return None
        if (cos, sin) not in self._found:
            arrays = self._evaluate(cos, sin)
            self._found[cos, sin] = None if arrays is None else RotaryCache(*map(self._store, arrays))
        return self._found[cos, sin]

    def _store(self, array: npt.NDArray[np.float32]) -> ir.Value:
        key = array.tobytes()
        if key not in self._by_bytes:
            self._by_bytes[key] = constant(self._model.graph, f"rotary_cache.{len(self._by_bytes)}", array)
        return self._by_bytes[key]

    def _evaluate(self, cos: ir.Value, sin: ir.Value) -> tuple[npt.NDArray[np.float32], ...] | None:
        nodes, values = ancestors([cos, sin])
        inputs = [value for value in self._model.graph.inputs if value in values]
        initializers = [value for value in values if value.is_initializer()]
        if {value.name for value in inputs} - {"position_ids", "input_ids"} or any(
            value.const_value is None for value in initializers
        ):
            return None
        proto = ir.to_proto(_submodel(self._model, inputs, [cos, sin], nodes, initializers))
        positions = np.arange(self._max_length, dtype=np.int64)[None]
        feeds = {"position_ids": positions, "input_ids": np.zeros_like(positions)}
        outputs = ReferenceEvaluator(proto).run(None, {value.name: feeds[value.name] for value in inputs if value.name})
        arrays = tuple(np.ascontiguousarray(output, dtype=np.float32) for output in outputs)
        if any(array.ndim != 3 or array.shape[:2] != positions.shape for array in arrays):
            return None
        return tuple(array[0] for array in arrays)


def _submodel(
    model: ir.Model,
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    nodes: Collection[ir.Node],
    initializers: Sequence[ir.Value],
) -> ir.Model:
    """A copy of the part of the graph that computes `outputs`; the graph itself is not changed."""
    copies = {
        value: ir.Value(name=value.name, type=value.type, const_value=value.const_value) for value in initializers
    }
    copies.update({value: ir.Value(name=value.name, type=value.type) for value in inputs})
    copied_nodes = []
    for node in model.graph:
        if node in nodes:
            copy = ir.Node(
                node.domain,
                node.op_type,
                [None if value is None else copies[value] for value in node.inputs],
                list(node.attributes.values()),
                num_outputs=len(node.outputs),
            )
            for old, new in zip(node.outputs, copy.outputs, strict=True):
                new.name, new.type = old.name, old.type
                copies[old] = new
            copied_nodes.append(copy)
    graph = ir.Graph(
        [copies[value] for value in inputs],
        [copies[value] for value in outputs],
        nodes=copied_nodes,
        initializers=[copies[value] for value in initializers],
        opset_imports={"": model.opset_imports[""]},
        name="rotary",
    )
    return ir.Model(graph, ir_version=model.ir_version)
