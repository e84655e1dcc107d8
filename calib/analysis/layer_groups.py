"""Groups of linear layers that read the same tensor, and the layer before each group that can take scaling factors.

Both are found by observing a forward pass of a few tokens, so that no table of architectures is needed. A predecessor
is accepted only if the model gives the same logits after random factors were moved through it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

Linear = torch.nn.Linear | Conv1D
_TOKENS = 8
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Predecessor:
    """The module whose output channels become a group's input channels.

    Dividing its output channels by factors divides the group's input channels by the same factors.

    Attributes:
        name: module name.
        channels: int64 [K], the predecessor's output channel for each input channel of the group.
        offset: the module multiplies by `weight + offset`, as Gemma's norms do.
    """

    name: str
    channels: torch.Tensor
    offset: float = 0.0


@dataclass(frozen=True)
class LayerGroup:
    """Linear layers that read the same tensor [..., K].

    Attributes:
        layers: module names.
        predecessor: None if no module can take the group's factors.
    """

    layers: tuple[str, ...]
    predecessor: Predecessor | None


def find_layer_groups(model: PreTrainedModel, layers: Sequence[str]) -> list[LayerGroup]:
    """Group the linear layers named `layers` by the tensor that they read, and find each group's predecessor."""
    trace = _trace(model, set(layers))
    found = []
    for names in trace.groups:
        predecessor = _norm_predecessor(model, trace, names) or _linear_predecessor(model, names)
        found.append(LayerGroup(names, predecessor))
    for kind in (_follows_norm, _follows_linear):
        if not _is_invariant(model, [group for group in found if kind(model, group)]):
            found = [LayerGroup(group.layers, None) if kind(model, group) else group for group in found]
    return found


def matrix(module: torch.nn.Module) -> torch.Tensor:
    """The weight of a linear layer as a view [N, K]."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight.t() if isinstance(module, Conv1D) else weight


@torch.no_grad()
def scale_input_channels(model: PreTrainedModel, group: LayerGroup, factors: torch.Tensor) -> None:
    """Divide the group's input channels by `factors` and multiply its weights' columns by them, in place.

    The predecessor's output channels are divided, so the model computes the same function.

    Args:
        model: the model.
        group: with a predecessor.
        factors: float [K]; equal for input channels that come from the same output channel of the predecessor.
    """
    assert group.predecessor is not None
    for name in group.layers:
        matrix(model.get_submodule(name)).mul_(factors)
    module = model.get_submodule(group.predecessor.name)
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, torch.Tensor)
    # Output channels that the group does not read keep a factor of 1.
    divisors = torch.ones(matrix(module).shape[0] if weight.dim() > 1 else len(weight), dtype=factors.dtype)
    divisors[group.predecessor.channels] = factors
    if weight.dim() > 1:
        matrix(module).div_(divisors[:, None])
    else:
        weight.copy_((weight + group.predecessor.offset) / divisors - group.predecessor.offset)
    if bias is not None:
        bias.div_(divisors)


class _Trace:
    """The tensors that modules read and returned in one forward pass, by id.

    Attributes:
        tensors: keeps the tensors alive, so that their ids stay unique.
        layer_readers: id of a tensor to the linear layers that read it.
        other_readers: id of a tensor to the number of other modules that read it.
        returned_by: id of a tensor to the module that returned it.
        calls: how often each module ran.
        groups: linear layers that read the same tensor.
        input_of: group to the id of its tensor.
    """

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.layer_readers: dict[int, list[str]] = defaultdict(list)
        self.other_readers: dict[int, int] = defaultdict(int)
        self.returned_by: dict[int, str] = {}
        self.calls: dict[str, int] = defaultdict(int)
        self.groups: list[tuple[str, ...]] = []
        self.input_of: dict[tuple[str, ...], int] = {}


def _trace(model: PreTrainedModel, layers: set[str]) -> _Trace:
    trace = _Trace()

    def before(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            trace.calls[name] += 1
            for value in (*arguments, *keywords.values()):
                if isinstance(value, torch.Tensor):
                    trace.tensors.append(value)
                    if name in layers:
                        trace.layer_readers[id(value)].append(name)
                    else:
                        trace.other_readers[id(value)] += 1

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, torch.Tensor):
                trace.tensors.append(output)
                trace.returned_by[id(output)] = name

        return hook

    handles = []
    for name, module in model.named_modules():
        # A module that has children but no weights passes its arguments on to the children.
        if module._parameters or not list(module.children()):
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after(name)))
    try:
        _logits(model)
    finally:
        for handle in handles:
            handle.remove()
    for key, names in trace.layer_readers.items():
        group = tuple(dict.fromkeys(names))
        trace.groups.append(group)
        trace.input_of[group] = key
    return trace


def _norm_predecessor(model: PreTrainedModel, trace: _Trace, names: tuple[str, ...]) -> Predecessor | None:
    """A norm whose output only this group reads."""
    key = trace.input_of[names]
    name = trace.returned_by.get(key)
    if name is None or trace.other_readers[key] or trace.calls[name] != 1:
        return None
    module = model.get_submodule(name)
    weight = getattr(module, "weight", None)
    columns = matrix(model.get_submodule(names[0])).shape[1]
    if not isinstance(weight, torch.Tensor) or weight.shape != (columns,):
        return None
    # A norm that multiplies by (1 + weight) has a nonzero output where its weight is zero.
    with torch.no_grad():
        kept = weight.clone()
        weight.zero_()
        offset = float(_without_bias(module, torch.linspace(-1, 1, columns)[None]).abs().max() > 0)
        weight.copy_(kept)
    return Predecessor(name, torch.arange(columns), offset)


def _without_bias(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    output = module(x)
    bias = getattr(module, "bias", None)
    assert isinstance(output, torch.Tensor)
    return output if bias is None else output - bias


# Linear layers connected by operations that are linear in each channel: the elementwise product with the gate, and the
# weighted sum of values in attention.
_LINEAR_PREDECESSORS = {"down_proj": "up_proj", "o_proj": "v_proj"}


def _linear_predecessor(model: PreTrainedModel, names: tuple[str, ...]) -> Predecessor | None:
    owner, _, own = names[0].rpartition(".")
    parent = model.get_submodule(owner)
    predecessor = getattr(parent, _LINEAR_PREDECESSORS.get(own, ""), None)
    if len(names) > 1 or not isinstance(predecessor, torch.nn.Linear):
        return None
    inputs, outputs = matrix(parent.get_submodule(own)).shape[1], predecessor.weight.shape[0]
    channels = torch.arange(inputs)
    if inputs != outputs:
        # Grouped-query attention: several query heads read the same value head.
        head = getattr(parent, "head_dim", None)
        if not isinstance(head, int) or inputs % outputs or outputs % head:
            return None
        queries_per_value = inputs // outputs
        channels = channels // head // queries_per_value * head + channels % head
    return Predecessor(f"{owner}.{_LINEAR_PREDECESSORS[own]}", channels)


def _follows_norm(model: PreTrainedModel, group: LayerGroup) -> bool:
    return group.predecessor is not None and not _follows_linear(model, group)


def _follows_linear(model: PreTrainedModel, group: LayerGroup) -> bool:
    return group.predecessor is not None and isinstance(model.get_submodule(group.predecessor.name), torch.nn.Linear)


def _is_invariant(model: PreTrainedModel, groups: Sequence[LayerGroup]) -> bool:
    """Whether the model gives the same logits after the inputs of `groups` were scaled by random factors."""
    if not groups:
        return True
    expected = _logits(model)
    with _randomly_scaled(model, groups):
        actual = _logits(model)
    return bool((actual - expected).abs().max() <= _TOLERANCE * expected.abs().max())


@contextmanager
def _randomly_scaled(model: PreTrainedModel, groups: Sequence[LayerGroup]) -> Iterator[None]:
    """Scale the inputs of `groups` by random factors inside the block; afterwards restore the weights exactly."""
    names = {name for group in groups for name in (*group.layers, group.predecessor.name if group.predecessor else "")}
    kept = [(tensor, tensor.detach().clone()) for name in names for tensor in _parameters(model, name)]
    generator = torch.Generator().manual_seed(0)
    try:
        for group in groups:
            assert group.predecessor is not None
            random = torch.rand(int(group.predecessor.channels.max()) + 1, generator=generator) + 0.5
            scale_input_channels(model, group, random[group.predecessor.channels])
        yield
    finally:
        with torch.no_grad():
            for tensor, values in kept:
                tensor.copy_(values)


def _parameters(model: PreTrainedModel, name: str) -> list[torch.Tensor]:
    return list(model.get_submodule(name).parameters(recurse=False))


@torch.no_grad()
def _logits(model: PreTrainedModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (1, _TOKENS), generator=generator)
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits
