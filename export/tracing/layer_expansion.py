"""Copy the traced representative layers of a graph to all layers of the model; see `layer_dedup`."""

from collections.abc import Sequence

import onnx_ir as ir

from edgekiln.export.passes.common.tensors import input_of
from edgekiln.export.tracing.layer_dedup import BEGIN, END, LayerDedupError


def expand_layers(model: ir.Model, prefix: str, representatives: Sequence[int]) -> None:
    """Replace the marked layers of a traced graph by all layers of the model, in place.

    Args:
        model: graph whose inputs and outputs `past.N.0.key`, `present.N.0.value` and so on, where N is a layer, are
            those of representatives.
        prefix: name of the layer list; initializer `{prefix}.N.x` belongs to layer N.
        representatives: for each layer the traced layer that it equals.

    Raises:
        LayerDedupError: a layer cannot be copied; the graph is then unchanged.
    """
    graph = model.graph
    traced = {layer: _TracedLayer(graph, prefix, layer) for layer in sorted(set(representatives))}
    _check_independent(traced)
    last = traced[max(traced)].end
    hidden = input_of(traced[representatives[0]].begin, 0)
    present: list[ir.Value] = []
    copies: list[ir.Node] = []
    past: dict[int, list[ir.Value]] = {}
    for layer, representative in enumerate(representatives):
        nodes, hidden, layer_past, layer_present = traced[representative].copy(layer, hidden)
        copies += nodes
        past[layer] = layer_past
        present += layer_present
    ir.convenience.replace_all_uses_with(last.outputs[0], hidden)
    originals = [node for each in traced.values() for node in (*each.nodes, each.begin, each.end)]
    graph.insert_after(last, copies)
    outputs = [graph.outputs[0], *present]
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    # The remaining readers of a traced layer's past read its shape only, which is that of the layer's own copy.
    for layer, each in traced.items():
        for old, new in zip(each.past, past[layer], strict=True):
            ir.convenience.replace_all_uses_with(old, new)
    for node in originals:
        # A removed node still counts as a user of its inputs, so that RemoveUnusedNodes would keep their producers.
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
    graph.remove(originals)
    inputs = [*graph.inputs[:2], *(value for values in past.values() for value in values)]
    graph.inputs.clear()
    graph.inputs.extend(inputs)
    graph.sort()


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name


class _TracedLayer:
    """The nodes of one representative: those that depend on its input, its weights, or the past of its caches."""

    def __init__(self, graph: ir.Graph, prefix: str, layer: int) -> None:
        self.layer = layer
        self.prefix = prefix
        self.graph = graph
        markers = {
            (node.op_type, node.attributes["layer"].as_int()): node for node in graph if node.op_type in (BEGIN, END)
        }
        if (END, layer) not in markers:
            raise LayerDedupError(f"layer {layer} is not called")
        self.begin, self.end = markers[BEGIN, layer], markers[END, layer]
        self.past = [value for value in graph.inputs if _name(value).startswith(f"past.{layer}.")]
        self.present = [value for value in graph.outputs if _name(value).startswith(f"present.{layer}.")]
        own = {self.begin.outputs[0], *self.past}
        own.update(v for v in graph.initializers.values() if v.name and v.name.startswith(f"{prefix}.{layer}."))
        self.nodes: list[ir.Node] = []
        for node in graph:
            if node in (self.begin, self.end) or node.op_type in ("Shape", "Size", BEGIN):
                continue
            if any(value in own for value in node.inputs):
                self.nodes.append(node)
                own.update(node.outputs)

    def copy(self, layer: int, hidden: ir.Value) -> tuple[list[ir.Node], ir.Value, list[ir.Value], list[ir.Value]]:
        """Copy the layer.

        Args:
            layer: index of the copy.
            hidden: its input.

        Returns:
            The copied nodes, the output, the past and the present of the caches.
        """
        values: dict[ir.Value, ir.Value] = {self.begin.outputs[0]: hidden}
        past = []
        for value in self.past:
            name = f"past.{layer}.{_name(value).removeprefix(f'past.{self.layer}.')}"
            new = ir.Value(name=name, type=value.type, shape=value.shape)
            values[value] = new
            past.append(new)
        nodes = []
        for node in self.nodes:
            copy = ir.Node(
                node.domain,
                node.op_type,
                [None if value is None else self._copied(value, layer, values) for value in node.inputs],
                list(node.attributes.values()),
                overload=node.overload,
                num_outputs=len(node.outputs),
            )
            for old, new in zip(node.outputs, copy.outputs, strict=True):
                new.name = f"layers.{layer}.{old.name}"
                new.type, new.shape = old.type, old.shape
                values[old] = new
            nodes.append(copy)
        present = []
        for value in self.present:
            result = self._copied(value, layer, values)
            result.name = f"present.{layer}.{_name(value).removeprefix(f'present.{self.layer}.')}"
            present.append(result)
        return nodes, self._copied(input_of(self.end, 0), layer, values), past, present

    def _copied(self, value: ir.Value, layer: int, values: dict[ir.Value, ir.Value]) -> ir.Value:
        """The value in copy `layer` that corresponds to `value`; values from outside of the layer are not copied."""
        own = f"{self.prefix}.{self.layer}."
        if value not in values and value.is_initializer() and value.name and value.name.startswith(own):
            name = f"{self.prefix}.{layer}.{value.name.removeprefix(own)}"
            if name not in self.graph.initializers:
                self.graph.initializers.add(
                    ir.Value(name=name, type=value.type, shape=value.shape, const_value=value.const_value)
                )
            values[value] = self.graph.initializers[name]
        return values.get(value, value)


def _check_independent(traced: dict[int, _TracedLayer]) -> None:
    owners: dict[ir.Node, int] = {}
    for layer, each in traced.items():
        inside = {*each.nodes, each.begin, each.end}
        for node in each.nodes:
            if node in owners:
                raise LayerDedupError(
                    f"layers {owners[node]} and {layer} share {node.op_type}, so they cannot be copied"
                )
            owners[node] = layer
            for value in node.outputs:
                if any(use.node not in inside for use in value.uses()):
                    raise LayerDedupError(f"later layers read {node.op_type} of layer {layer}, so it cannot be copied")
