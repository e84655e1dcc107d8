"""Initializers whose values are made when the file is written, and the few edits that the passes make to them."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[np.generic]


def set_lazily(value: ir.Value, shape: Sequence[int], dtype: ir.DataType, make: Callable[[], Array]) -> None:
    """Give an initializer the values that `make` returns, called whenever they are needed and never kept."""
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
    """Add an initializer made by `make`; one that has the name already is returned instead, so that layers share."""
    if name in graph.initializers:
        return graph.initializers[name]
    value = ir.Value(name=name)
    set_lazily(value, shape, dtype, make)
    graph.initializers.add(value)
    return value


def constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Add a small initializer; one that has the name already is returned instead."""
    return new_initializer(graph, name, array.shape, ir.DataType.from_numpy(array.dtype), lambda: array)


def values_of(value: ir.Value) -> Array:
    """The values of an initializer."""
    assert value.const_value is not None, f"{value.name} has no values"
    return value.const_value.numpy()


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The static shape of an initializer."""
    assert value.shape is not None
    return value.shape.numpy()


def concatenated(graph: ir.Graph, name: str, parts: Sequence[ir.Value]) -> ir.Value:
    """An initializer that holds `parts` one after another along axis 0."""
    shapes = [shape_of(part) for part in parts]
    dtype = parts[0].dtype
    assert dtype is not None
    shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    kept = list(parts)
    return new_initializer(graph, name, shape, dtype, lambda: np.concatenate([values_of(part) for part in kept]))


def is_weight(value: ir.Value | None) -> bool:
    """Whether `value` is an initializer with values."""
    return value is not None and value.is_initializer() and value.const_value is not None


def only_reader(value: ir.Value | None) -> ir.Node | None:
    """The node that alone reads `value`; None if there are others, or the graph gives it out."""
    uses = list(value.uses()) if value is not None else []
    return uses[0][0] if value is not None and len(uses) == 1 and not value.is_graph_output() else None


def attribute(node: ir.Node, name: str) -> int | float | str:
    """The value of a scalar attribute; a string attribute as str."""
    value = node.attributes[name].value
    return value.decode() if isinstance(value, bytes) else value


def replace_node(node: ir.Node, new_nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> None:
    """Put `new_nodes` where `node` stands and `outputs` where its outputs were used, graph outputs included."""
    graph = node.graph
    assert graph is not None
    move_uses(graph, node.outputs, outputs)
    if new_nodes:
        graph.insert_before(node, list(new_nodes))
    graph.remove(node, safe=True)


def move_uses(graph: ir.Graph, olds: Sequence[ir.Value], news: Sequence[ir.Value]) -> None:
    """Put `news` where `olds` are used, graph outputs included."""
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
    """A node whose outputs are called `name` (`name.1` and so on for more)."""
    attrs = [ir.convenience.convert_attribute(key, value) for key, value in attributes.items()]  # type: ignore[arg-type]
    node = ir.Node(domain, op, inputs, attrs, num_outputs=outputs, name=name)
    for i, value in enumerate(node.outputs):
        value.name = name if i == 0 else f"{name}.{i}"
    return node
