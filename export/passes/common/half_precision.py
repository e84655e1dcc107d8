"""A float32 graph in binary16 or bfloat16, with casts around what needs more.

Cases:
    1. Cos and Sin, and whatever float they are computed from: angles of late positions need the bits;
    2. ops whose results or inner sums leave binary16's range: float32 inside, cast on both sides;
    3. logits leave as float32, for sampling;
    4. everything else, weights included: half.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.passes.common.tensors import Array, make, set_lazily, values_of

# Norms written out (squares, their means and roots), and what else grows.
_WIDE_OPS = frozenset({"Pow", "ReduceMean", "Sqrt", "Reciprocal", "Exp", "Log", "CumSum", "Softmax"})
_ANGLE_OPS = frozenset({"Cos", "Sin"})
HALF_TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
_LARGEST = {ir.DataType.FLOAT16: float(np.finfo(np.float16).max)}


def to_half(model: ir.Model, dtype: ir.DataType) -> None:
    """Convert a graph of standard ops, in place; `dtype` is FLOAT16 or BFLOAT16.

    Raises:
        UnsupportedModelError: when its values are read, a weight does not fit.
    """
    graph = model.graph
    common.ShapeInferencePass()(model)
    angles = _ancestors(graph)
    wide = [node for node in graph if node in angles or node.op_type in _WIDE_OPS]
    halves = {value for value in _floats(graph) if not (value.producer() in wide or _only_for(value, wide))}
    for value in halves:
        if value.is_initializer():
            _convert(value, dtype)
        # Values may share a type, also with those of a graph that this one was cloned from.
        value.type = ir.TensorType(dtype)
    for node in graph:
        if node not in wide and node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT.value:
            node.attributes["to"] = ir.AttrInt64("to", dtype.value)
    _cast(graph, halves, set(wide), dtype)
    logits = graph.outputs[0]
    if logits.dtype == dtype:
        cast = make("Cast", [logits], f"{logits.name}.float32", to=ir.DataType.FLOAT.value)
        cast.outputs[0].shape, cast.outputs[0].dtype = logits.shape, ir.DataType.FLOAT
        graph.append(cast)
        cast.outputs[0].name, logits.name = logits.name, f"{logits.name}.{dtype.name.lower()}"
        graph.outputs[0] = cast.outputs[0]


def _ancestors(graph: ir.Graph) -> set[ir.Node]:
    """Cos, Sin and every node that a float goes through on its way to them."""
    found: set[ir.Node] = set()
    waiting = [node for node in graph if node.op_type in _ANGLE_OPS]
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        floats = [value for value in node.inputs if value is not None and value.dtype == ir.DataType.FLOAT]
        waiting += [producer for value in floats if (producer := value.producer()) is not None]
    return found


def _floats(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    return [value for value in values if value.dtype == ir.DataType.FLOAT]


def _only_for(value: ir.Value, wide: list[ir.Node]) -> bool:
    """Whether `value` is an initializer that nothing but float32 nodes reads."""
    return value.is_initializer() and all(use.node in wide for use in value.uses())


def _convert(value: ir.Value, dtype: ir.DataType) -> None:
    assert value.shape is not None
    name, original, numpy_type = value.name, ir.Value(name=value.name, const_value=value.const_value), dtype.numpy()
    largest = _LARGEST.get(dtype)

    def make_half() -> Array:
        values = values_of(original)
        if largest is not None and values.size and float(np.abs(values).max()) > largest:
            raise UnsupportedModelError(f"{name} holds values beyond {largest:.0f}: build with --dtype bfloat16")
        return values.astype(numpy_type)

    set_lazily(value, value.shape.numpy(), dtype, make_half)


def _cast(graph: ir.Graph, halves: set[ir.Value], wide: set[ir.Node], dtype: ir.DataType) -> None:
    """Put a Cast on every edge between half and float32; a value is cast once each way."""
    made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(graph):
        if node.op_type == "Cast":
            continue
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (ir.DataType.FLOAT, dtype):
                continue
            wanted = ir.DataType.FLOAT if node in wide else dtype
            if value.dtype == wanted:
                continue
            if (value, wanted) not in made:
                cast = make("Cast", [value], f"{value.name}.{wanted.name.lower()}", to=wanted.value)
                cast.outputs[0].dtype, cast.outputs[0].shape = wanted, value.shape
                producer = value.producer()
                if producer is None:
                    graph.insert_before(graph[0], cast)
                else:
                    graph.insert_after(producer, cast)
                made[value, wanted] = cast.outputs[0]
            node.replace_input_with(index, made[value, wanted])
