"""Layer deduplication: trace each distinct decoder layer once, as most layers differ in their weights only.

Tracing is by far the slowest step of an export and grows with depth. The first layer of each set of equal layers, their
representative, is traced between two marker nodes; the others pass their input through. `layer_expansion` then copies
the traced nodes to every layer, with its own weights, past and present.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from edgekiln.errors import UnsupportedModelError
from edgekiln.export import canonical

BEGIN, END = "LayerBegin", "LayerEnd"


class LayerDedupError(UnsupportedModelError):
    """Layers exchange other tensors than their hidden states, so that each has to be traced by itself."""


def find_layers(model: PreTrainedModel, count: int) -> tuple[str, torch.nn.ModuleList] | None:
    """Find the ModuleList of the `count` decoder layers.

    Returns:
        Its name in the model and the list; None if no list has exactly one layer an index.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            indices = [
                {sub.layer_idx for sub in layer.modules() if isinstance(getattr(sub, "layer_idx", None), int)}
                for layer in module
            ]
            if indices == [{i} for i in range(count)]:
                return name, module
    return None


def find_representatives(layers: Sequence[torch.nn.Module], config: Any) -> list[int]:
    """For each layer the index of the first layer that is equal to it but for its weights."""
    first: dict[str, int] = {}
    return [first.setdefault(_signature(layer, i, len(layers), config), i) for i, layer in enumerate(layers)]


def _signature(layer: torch.nn.Module, index: int, count: int, config: Any) -> str:
    """Everything of a layer but its index and weights: structure, sizes, scalar attributes, its config entries."""
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
def only_representatives(layers: Sequence[torch.nn.Module], representatives: Sequence[int]) -> Iterator[None]:
    """Inside the block representatives run between marker nodes, and the other layers return their input.

    Args:
        layers: all layers, in order.
        representatives: the result of `find_representatives`.

    Raises:
        LayerDedupError: inside the block, when a layer gets other arguments than its representative.
    """
    calls: dict[int, tuple[Any, ...]] = {}
    tuples: dict[int, int] = {}
    handles = []
    for index, layer in enumerate(layers):
        if index == representatives[index]:
            handles.append(layer.register_forward_pre_hook(_begin_hook(index, calls), with_kwargs=True))
            handles.append(layer.register_forward_hook(_end_hook(index, tuples)))
        else:
            layer.forward = _pass_through(index, representatives[index], calls, tuples)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for index, layer in enumerate(layers):
            if index != representatives[index]:
                del layer.forward


def _pass_through(
    index: int, representative: int, calls: dict[int, tuple[Any, ...]], tuples: dict[int, int]
) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        # A tensor that the model computes for one layer would, in the copies, still be that of the representative.
        if not _same(calls[representative], _other_arguments(args, kwargs)):
            raise LayerDedupError(f"layer {index} is called with other tensors than layer {representative}")
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *[None] * (tuples[representative] - 1)) if representative in tuples else hidden

    return forward


def _other_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of a layer but its hidden states."""
    return args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}


def _same(a: Any, b: Any) -> bool:
    """Whether nested arguments are equal, tensors compared by identity."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return a is b
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a == b)


def _marked(op: str, index: int, hidden: torch.Tensor) -> torch.Tensor:
    """Emit a marker node that returns `hidden`."""
    return torch.onnx.ops.symbolic(
        f"{canonical.DOMAIN}::{op}",
        (hidden,),
        attrs={"layer": index},
        dtype=hidden.dtype,
        shape=hidden.shape,
        version=canonical.VERSION,
    )


def _begin_hook(index: int, calls: dict[int, tuple[Any, ...]]) -> Any:
    def hook(
        _: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        calls[index] = _other_arguments(args, kwargs)
        if args:
            return (_marked(BEGIN, index, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": _marked(BEGIN, index, kwargs["hidden_states"])}

    return hook


def _end_hook(index: int, tuples: dict[int, int]) -> Any:
    """The hook that marks a layer's output; `tuples` gets the length of one that is a tensor with None after it."""

    def hook(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple) and output and all(part is None for part in output[1:]):
            tuples[index] = len(output)
            return (_marked(END, index, output[0]), *output[1:])
        if not isinstance(output, torch.Tensor):
            raise LayerDedupError(f"a decoder layer returns {type(output).__name__} where a tensor is expected")
        return _marked(END, index, output)

    return hook
