"""Decoders repeat one layer: trace each distinct layer once and write it out as often as the model has it.

Tracing is by far the slowest step of an export and grows with depth. Layers that differ only in their weights are
found by comparing everything else about them; one of each kind is traced, the others pass their input through, and
`expand` copies the traced nodes for every layer with its own weights, past and present.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch
from transformers import PreTrainedModel

from edgekiln.errors import UnsupportedModelError
from edgekiln.export import canonical

BEGIN, END = "LayerBegin", "LayerEnd"


class EntangledLayersError(UnsupportedModelError):
    """The layers share more than one tensor handed from each to the next, so each has to be traced by itself."""


def find_layers(model: PreTrainedModel, count: int) -> tuple[str, torch.nn.ModuleList] | None:
    """The list of `count` decoder layers and its name in the model, or None if the model is not built that way."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            indices = [
                {sub.layer_idx for sub in layer.modules() if isinstance(getattr(sub, "layer_idx", None), int)}
                for layer in module
            ]
            if indices == [{i} for i in range(count)]:
                return name, module
    return None


def representatives(layers: Sequence[torch.nn.Module], config: Any) -> list[int]:
    """For each layer the index of the first one that is equal to it but for its weights."""
    first: dict[str, int] = {}
    return [first.setdefault(_signature(layer, i, len(layers), config), i) for i, layer in enumerate(layers)]


def _signature(layer: torch.nn.Module, index: int, count: int, config: Any) -> str:
    """Everything about a layer but its index and weights: structure, sizes, scalar attributes, its config entries."""
    parts: list[Any] = [str(layer)]
    for name, module in layer.named_modules():
        plain = {
            key: value
            for key, value in vars(module).items()
            if key != "layer_idx" and isinstance(value, bool | int | float | str | type(None))
        }
        parts.append((name, sorted(plain.items())))
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        value = None if tensor.device.type == "meta" else tensor.tolist()
        parts.append((name, tuple(tensor.shape), str(tensor.dtype), value))
    for key, value in sorted(config.to_dict().items()):
        if isinstance(value, list | tuple) and len(value) == count:
            parts.append((key, value[index]))
    return repr(parts)


@contextlib.contextmanager
def only(layers: Sequence[torch.nn.Module], kinds: Sequence[int]) -> Iterator[None]:
    """Inside the block layers that equal an earlier one return their input and the others are marked in the graph.

    Args:
        layers: all layers, in order.
        kinds: what `representatives` said of them.

    Raises:
        EntangledLayersError: inside the block, when a layer is called with other tensors than the one it equals.
    """
    calls: dict[int, tuple[Any, ...]] = {}
    handles = []
    for index, layer in enumerate(layers):
        if index == kinds[index]:
            handles.append(layer.register_forward_pre_hook(_begin(index, calls), with_kwargs=True))
            handles.append(layer.register_forward_hook(_end(index)))
        else:
            layer.forward = _pass_through(index, kinds[index], calls)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for index, layer in enumerate(layers):
            if index != kinds[index]:
                del layer.forward


def _pass_through(index: int, kind: int, calls: dict[int, tuple[Any, ...]]) -> Callable[..., torch.Tensor]:
    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        # A model that computes something for each layer outside of it would have the copies read what layer `kind` got.
        if not _same(calls[kind], _beside_hidden(args, kwargs)):
            raise EntangledLayersError(f"layer {index} is called with other tensors than layer {kind}")
        hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
        return hidden

    return forward


def _beside_hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    return args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}


def _same(a: Any, b: Any) -> bool:
    """Equal, tensors by identity."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return a is b
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a == b)


def _mark(op: str, index: int, hidden: torch.Tensor) -> torch.Tensor:
    return torch.onnx.ops.symbolic(
        f"{canonical.DOMAIN}::{op}",
        (hidden,),
        attrs={"layer": index},
        dtype=hidden.dtype,
        shape=hidden.shape,
        version=canonical.VERSION,
    )


def _begin(index: int, calls: dict[int, tuple[Any, ...]]) -> Any:
    def hook(
        _: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        calls[index] = _beside_hidden(args, kwargs)
        if args:
            return (_mark(BEGIN, index, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": _mark(BEGIN, index, kwargs["hidden_states"])}

    return hook


def _end(index: int) -> Any:
    def hook(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> torch.Tensor:
        if not isinstance(output, torch.Tensor):
            raise EntangledLayersError(f"a decoder layer returns {type(output).__name__} where a tensor is expected")
        return _mark(END, index, output)

    return hook


def expand(model: ir.Model, prefix: str, kinds: Sequence[int]) -> None:
    """Replace the marked layers of a traced graph by all layers of the model, in place.

    Args:
        model: graph whose past and present are named `past.N.key` and so on, for the traced layers only.
        prefix: name of the layer list, so that initializer `{prefix}.N.x` belongs to layer N.
        kinds: for each layer the traced layer it is equal to.

    Raises:
        EntangledLayersError: a layer cannot be copied; the graph is then as it was.
    """
    graph = model.graph
    regions = {layer: _Region(graph, prefix, layer) for layer in sorted(set(kinds))}
    _check_disjoint(regions)
    ends = {region.layer: region.end for region in regions.values()}
    last = ends[max(ends)]
    hidden = regions[kinds[0]].begin.inputs[0]
    assert hidden is not None
    present: list[ir.Value] = []
    copies: list[ir.Node] = []
    past: list[ir.Value] = []
    for layer, kind in enumerate(kinds):
        nodes, hidden, layer_past, layer_present = regions[kind].copy(layer, hidden)
        copies += nodes
        past += layer_past
        present += layer_present
    ir.convenience.replace_all_uses_with(last.outputs[0], hidden)
    shape_sources = {region.layer: region.past for region in regions.values()}
    originals = [node for region in regions.values() for node in (*region.nodes, region.begin, region.end)]
    graph.insert_after(last, copies)
    outputs = [graph.outputs[0], *present]
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    # What still reads a traced layer's past reads only its shape, which is that of the layer's own copy.
    for layer, values in shape_sources.items():
        for old, new in zip(values, past[2 * layer : 2 * layer + 2], strict=True):
            ir.convenience.replace_all_uses_with(old, new)
    for node in originals:
        # A node that is gone must not count as a user of what it read, or nothing there is ever found unused.
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
    graph.remove(originals)
    inputs = [*graph.inputs[:2], *past]
    graph.inputs.clear()
    graph.inputs.extend(inputs)
    graph.sort()


class _Region:
    """The nodes of one traced layer: those that depend on its input, its weights or its past's values."""

    def __init__(self, graph: ir.Graph, prefix: str, layer: int) -> None:
        self.layer = layer
        self.prefix = prefix
        self.graph = graph
        marks = {
            (node.op_type, node.attributes["layer"].as_int()): node for node in graph if node.op_type in (BEGIN, END)
        }
        self.begin, self.end = marks[BEGIN, layer], marks[END, layer]
        names = [f"{layer}.key", f"{layer}.value"]
        by_name = {value.name: value for value in graph.inputs}
        self.past = [by_name[f"past.{name}"] for name in names]
        outputs = {value.name: value for value in graph.outputs}
        self.present = [outputs[f"present.{name}"] for name in names]
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
        """Nodes, output, past and present of this region written out as `layer`, reading `hidden`."""
        values: dict[ir.Value | None, ir.Value | None] = {None: None, self.begin.outputs[0]: hidden}
        past = []
        for value, kind in zip(self.past, ("key", "value"), strict=True):
            new = ir.Value(name=f"past.{layer}.{kind}", type=value.type, shape=value.shape)
            values[value] = new
            past.append(new)
        own = f"{self.prefix}.{self.layer}."

        def mapped(value: ir.Value | None) -> ir.Value | None:
            if value in values:
                return values[value]
            assert value is not None
            if value.is_initializer() and value.name and value.name.startswith(own):
                name = f"{self.prefix}.{layer}.{value.name.removeprefix(own)}"
                if name not in self.graph.initializers:
                    self.graph.initializers.add(
                        ir.Value(name=name, type=value.type, shape=value.shape, const_value=value.const_value)
                    )
                values[value] = self.graph.initializers[name]
                return values[value]
            return value

        nodes = []
        for node in self.nodes:
            copy = ir.Node(
                node.domain,
                node.op_type,
                [mapped(value) for value in node.inputs],
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
        for value, kind in zip(self.present, ("key", "value"), strict=True):
            result = mapped(value)
            assert result is not None
            result.name = f"present.{layer}.{kind}"
            present.append(result)
        output = mapped(self.end.inputs[0])
        assert output is not None
        return nodes, output, past, present


def _check_disjoint(regions: dict[int, _Region]) -> None:
    seen: dict[ir.Node, int] = {}
    for layer, region in regions.items():
        inside = {*region.nodes, region.begin, region.end}
        for node in region.nodes:
            if node in seen:
                raise EntangledLayersError(
                    f"layers {seen[node]} and {layer} share {node.op_type}, so they cannot be copied"
                )
            seen[node] = layer
            for value in node.outputs:
                if any(use.node not in inside for use in value.uses()):
                    raise EntangledLayersError(
                        f"layer {layer} hands {node.op_type} to later layers, so it cannot be copied"
                    )
