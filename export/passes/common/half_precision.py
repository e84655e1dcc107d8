"""Convert a float32 graph to float16 or bfloat16, with Casts around the ops that stay in float32."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, common

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.passes.common.tensors import Array, make, set_lazily, shape_of, values_of

# Ops of norms that are not fused, others whose results grow, and recurrences, whose rounding errors add up.
_WIDE_OPS = frozenset(
    {"Pow", "ReduceMean", "Sqrt", "Reciprocal", "Exp", "Log", "CumSum", "Softmax", "Scan", "LinearAttention"}
)
_ANGLE_OPS = frozenset({"Cos", "Sin"})
HALF_TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
_LARGEST = {ir.DataType.FLOAT16: float(np.finfo(np.float16).max)}


class ConvertToHalf(InPlacePass):
    """Convert the float32 values of a graph of standard ops to `dtype`, weights and graph inputs included.

    Cases:
        1. Cos, Sin and every op that computes their input: float32, as the angles of late positions need the bits;
        2. ops whose results or inner sums exceed the range of float16, and recurrences with their states (`_WIDE_OPS`):
           float32, with Casts on both sides;
        3. the logits: cast to float32 at the end, for sampling;
        4. everything else: `dtype`.

    Args:
        dtype: FLOAT16 or BFLOAT16.

    Raises:
        UnsupportedModelError: a weight exceeds the range of float16; raised when its values are read.
    """

    def __init__(self, dtype: ir.DataType) -> None:
        super().__init__()
        self._dtype = dtype

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        graph, dtype = model.graph, self._dtype
        common.ShapeInferencePass()(model)
        angles = _angle_nodes(graph)
        wide = {node for node in graph if node in angles or node.op_type in _WIDE_OPS}
        halves = {value for value in _floats(graph) if not (value.producer() in wide or _only_read_by(value, wide))}
        if not halves:
            return PassResult(model, False)
        for value in halves:
            if value.is_initializer():
                _convert(value, dtype)
            # A new type object: values may share one, also with the graph that this one was cloned from.
            value.type = ir.TensorType(dtype)
        for node in graph:
            if node not in wide and node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
                node.attributes["to"] = ir.AttrInt64("to", dtype.value)
            if node not in wide and node.op_type == "ConstantOfShape" and node.outputs[0] in halves:
                filled = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1)
                node.attributes["value"] = ir.AttrTensor("value", ir.tensor(filled.astype(dtype.numpy()), dtype=dtype))
        _insert_casts(graph, wide, dtype)
        if graph.outputs[0].dtype == dtype:
            _cast_logits(graph, dtype)
        return PassResult(model, True)


def _angle_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Cos, Sin and the nodes that their float inputs are computed by."""
    found: set[ir.Node] = set()
    pending = [node for node in graph if node.op_type in _ANGLE_OPS]
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        floats = [value for value in node.inputs if value is not None and value.dtype == ir.DataType.FLOAT]
        pending += [producer for value in floats if (producer := value.producer()) is not None]
    return found


def _floats(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    return [value for value in values if value.dtype == ir.DataType.FLOAT]


def _only_read_by(value: ir.Value, nodes: set[ir.Node]) -> bool:
    """Whether `value` is an initializer or a graph input that only `nodes` read."""
    return value.producer() is None and bool(value.uses()) and all(use.node in nodes for use in value.uses())


def _convert(value: ir.Value, dtype: ir.DataType) -> None:
    name, original, numpy_type = value.name, ir.Value(name=value.name, const_value=value.const_value), dtype.numpy()
    largest = _LARGEST.get(dtype)

    def converted() -> Array:
        values = values_of(original)
        # Infinities, which mask experts, stay what they are.
        finite = values[np.isfinite(values)]
        if largest is not None and finite.size and float(np.abs(finite).max()) > largest:
            raise UnsupportedModelError(f"{name} holds values beyond {largest:.0f}: build with --dtype bfloat16")
        return values.astype(numpy_type)

    set_lazily(value, shape_of(value), dtype, converted)


def _insert_casts(graph: ir.Graph, wide: set[ir.Node], dtype: ir.DataType) -> None:
    """Insert a Cast on every edge between float32 and `dtype`; readers of a value share its Cast."""
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


def _cast_logits(graph: ir.Graph, dtype: ir.DataType) -> None:
    logits = graph.outputs[0]
    cast = make("Cast", [logits], f"{logits.name}.float32", to=ir.DataType.FLOAT.value)
    cast.outputs[0].shape, cast.outputs[0].dtype = logits.shape, ir.DataType.FLOAT
    graph.append(cast)
    cast.outputs[0].name, logits.name = logits.name, f"{logits.name}.{dtype.name.lower()}"
    graph.outputs[0] = cast.outputs[0]
