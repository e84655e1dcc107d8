"""Graph editing that the passes share: reading inputs and attributes, lazy initializers, replacing nodes."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[np.generic]


def inputs_of(node: ir.Node, n: int) -> list[ir.Value]:
    """The first `n` inputs of `node`, none of which may be absent.

    Raises:
        ValueError: an input is absent; the graph is then not one that the tracer made.
    """
    found = [value for value in node.inputs[:n] if value is not None]
    if len(found) != n:
        raise ValueError(f"{node.op_type} {node.name!r} lacks one of its first {n} inputs")
    return found


def input_of(node: ir.Node, index: int) -> ir.Value:
    """Input `index` of `node`.

    Raises:
        ValueError: it is absent.
    """
    value = optional_input(node, index)
    if value is None:
        raise ValueError(f"{node.op_type} {node.name!r} lacks input {index}")
    return value


def optional_input(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index` of `node`; None if it is absent."""
    return node.inputs[index] if len(node.inputs) > index else None


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that `node` is in.

    Raises:
        ValueError: it is in none, or in a function.
    """
    if not isinstance(node.graph, ir.Graph):
        raise ValueError(f"{node.op_type} {node.name!r} is in no graph")
    return node.graph


def name_of(node: ir.Node) -> str:
    """The name of the node's first output; its op if that has none."""
    return node.outputs[0].name or node.op_type


def heads_of(value: ir.Value) -> tuple[int, int]:
    """Heads H and head size D of [B, H, S, D].

    Raises:
        ValueError: they are not static.
    """
    heads, head_dim = (value.shape[1], value.shape[3]) if value.shape is not None else (None, None)
    if not isinstance(heads, int) or not isinstance(head_dim, int):
        raise ValueError(f"the heads of {value.name} are not static: {value.shape}")
    return heads, head_dim


def set_lazily(value: ir.Value, shape: Sequence[int], dtype: ir.DataType, make: Callable[[], Array]) -> None:
    """Let `make` compute the values of an initializer each time they are read, so that memory does not hold them."""
    value.shape = ir.Shape(shape)
    value.type = ir.TensorType(dtype)
    value.const_value = ir.LazyTensor(
        lambda: ir.tensor(np.asarray(make(), order="C"), dtype=dtype),
        dtype=dtype,
        shape=ir.Shape(shape),
        name=value.name,
        cache=False,
    )


def new_initializer(
    graph: ir.Graph, name: str, shape: Sequence[int], dtype: ir.DataType, make: Callable[[], Array]
) -> ir.Value:
    """Add an initializer computed by `make`, or return the one of that name, which layers then share."""
    if name in graph.initializers:
        return graph.initializers[name]
    value = ir.Value(name=name)
    set_lazily(value, shape, dtype, make)
    graph.initializers.add(value)
    return value


def constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Add an initializer with the values of `array`, or return the one of that name."""
    return new_initializer(graph, name, array.shape, ir.DataType.from_numpy(array.dtype), lambda: array)


def values_of(value: ir.Value) -> Array:
    """The values of an initializer.

    Raises:
        ValueError: it has none.
    """
    if value.const_value is None:
        raise ValueError(f"{value.name} has no values")
    return value.const_value.numpy()


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The static shape of a value.

    Raises:
        ValueError: its shape is unknown.
    """
    if value.shape is None:
        raise ValueError(f"{value.name} has no shape")
    return value.shape.numpy()


def sizes_of(value: ir.Value) -> list[int | ir.SymbolicDim]:
    """The dimensions of a value, static or symbolic.

    Raises:
        ValueError: its shape is unknown.
    """
    if value.shape is None:
        raise ValueError(f"{value.name} has no shape")
    return list(value.shape)


def size_of(value: ir.Value, axis: int) -> int:
    """The static size of one axis."""
    size = sizes_of(value)[axis]
    assert isinstance(size, int)
    return size


def dtype_of(value: ir.Value) -> ir.DataType:
    """The element type of a value.

    Raises:
        ValueError: its type is unknown.
    """
    if value.dtype is None:
        raise ValueError(f"{value.name} has no type")
    return value.dtype


def concatenated(graph: ir.Graph, name: str, parts: Sequence[ir.Value]) -> ir.Value:
    """An initializer that is the concatenation of `parts` along axis 0."""
    shapes = [shape_of(part) for part in parts]
    dtype = dtype_of(parts[0])
    shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    kept = list(parts)
    return new_initializer(graph, name, shape, dtype, lambda: np.concatenate([values_of(part) for part in kept]))


def ancestors(outputs: Sequence[ir.Value]) -> tuple[set[ir.Node], set[ir.Value]]:
    """The nodes and values that `outputs` are computed from, `outputs` included."""
    nodes: set[ir.Node] = set()
    values: set[ir.Value] = set()
    pending = list(outputs)
    while pending:
        value = pending.pop()
        if value in values:
            continue
        values.add(value)
        producer = value.producer()
        if producer is not None:
            nodes.add(producer)
            pending += [each for each in producer.inputs if each is not None]
    return nodes, values


def is_weight(value: ir.Value | None) -> bool:
    """Whether `value` is an initializer with values."""
    return value is not None and value.is_initializer() and value.const_value is not None


def only_reader(value: ir.Value | None) -> ir.Node | None:
    """The only node that reads `value`; None if several do, none does, or `value` is a graph output."""
    uses = list(value.uses()) if value is not None else []
    return uses[0][0] if value is not None and len(uses) == 1 and not value.is_graph_output() else None


def attribute(node: ir.Node, name: str) -> int | float | str:
    """The value of an int, float or string attribute."""
    value = node.attributes[name].value
    return value.decode() if isinstance(value, bytes) else value


def replace_node(node: ir.Node, new_nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> None:
    """Replace `node` by `new_nodes` and its outputs by `outputs`, graph outputs included."""
    graph = graph_of(node)
    move_uses(graph, node.outputs, outputs)
    if new_nodes:
        graph.insert_before(node, list(new_nodes))
    graph.remove(node, safe=True)


def move_uses(graph: ir.Graph, olds: Sequence[ir.Value], news: Sequence[ir.Value]) -> None:
    """Replace every use of `olds` by `news`, graph outputs included."""
    for old, new in zip(olds, news, strict=True):
        if old.is_graph_output():
            index = next(i for i, value in enumerate(graph.outputs) if value is old)
            graph.outputs[index] = new
            new.name, old.name = old.name, f"{old.name}.replaced"
        if new.shape is None:
            new.shape, new.type = old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new)


def make(
    op: str, inputs: Sequence[ir.Value | None], name: str, *, domain: str = "", outputs: int = 1, **attributes: object
) -> ir.Node:
    """A node named `name` with outputs `name`, `name.1`, `name.2`, ...

    Args:
        op, domain: operator.
        inputs: input values; None for an absent one.
        name: of the node and its first output.
        outputs: number of outputs.
        attributes: attribute name to value.
    """
    attrs = [ir.convenience.convert_attribute(key, value) for key, value in attributes.items()]  # type: ignore[arg-type]
    node = ir.Node(domain, op, inputs, attrs, num_outputs=outputs, name=name)
    for i, value in enumerate(node.outputs):
        value.name = name if i == 0 else f"{name}.{i}"
    return node
