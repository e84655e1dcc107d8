"""Groups of linear layers that read the same tensor, and the layer before each group that can take scaling factors.

All experts of a layer read the same tensor, of which each gets the tokens that chose it, and so does their router.
Both are found by observing a forward pass of a few tokens, so that no table of architectures is needed. A predecessor
is accepted only if the model gives the same logits after random factors were moved through it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edgekiln.calib.analysis.forward_trace import ForwardTrace, sample_logits, trace_forward

Linear = torch.nn.Linear | Conv1D
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
        routers: modules that choose the experts among the layers. They read the tensor as well, with a weight [E, K].
    """

    layers: tuple[str, ...]
    predecessor: Predecessor | None
    routers: tuple[str, ...] = ()

    @property
    def reader(self) -> str:
        """A module whose input is the whole tensor."""
        return (*self.routers, *self.layers)[0]


def find_layer_groups(model: PreTrainedModel, layers: Sequence[str]) -> list[LayerGroup]:
    """Group the linear layers named `layers` by the tensor that they read, and find each group's predecessor."""
    trace = trace_forward(model, set(layers))
    found = []
    for names in trace.groups:
        predecessor = _norm_predecessor(model, trace, names) or _linear_predecessor(model, names)
        found.append(LayerGroup(names, predecessor, trace.routers(names)))
    for kind in (_has_router, _follows_norm, _follows_linear):
        if not _is_invariant(model, [group for group in found if kind(model, group)]):
            found = [replace(group, predecessor=None) if kind(model, group) else group for group in found]
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
    for name in (*group.layers, *group.routers):
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


def _norm_predecessor(model: PreTrainedModel, trace: ForwardTrace, names: tuple[str, ...]) -> Predecessor | None:
    """A norm whose output only this group and its routers read."""
    key = trace.input_of[names]
    name = trace.returned_by.get(key)
    if name is None or len(trace.other_readers[key]) > len(trace.routers(names)) or trace.calls[name] != 1:
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


def _has_router(_model: PreTrainedModel, group: LayerGroup) -> bool:
    return group.predecessor is not None and bool(group.routers)


def _follows_norm(model: PreTrainedModel, group: LayerGroup) -> bool:
    return group.predecessor is not None and not _follows_linear(model, group)


def _follows_linear(model: PreTrainedModel, group: LayerGroup) -> bool:
    return group.predecessor is not None and isinstance(model.get_submodule(group.predecessor.name), torch.nn.Linear)


def _is_invariant(model: PreTrainedModel, groups: Sequence[LayerGroup]) -> bool:
    """Whether the model gives the same logits after the inputs of `groups` were scaled by random factors."""
    if not groups:
        return True
    expected = sample_logits(model)
    with _randomly_scaled(model, groups):
        actual = sample_logits(model)
    return bool((actual - expected).abs().max() <= _TOLERANCE * expected.abs().max())


@contextmanager
def _randomly_scaled(model: PreTrainedModel, groups: Sequence[LayerGroup]) -> Iterator[None]:
    """Scale the inputs of `groups` by random factors inside the block; afterwards restore the weights exactly."""
    names = {
        name
        for group in groups
        for name in (*group.layers, *group.routers, group.predecessor.name if group.predecessor else "")
    }
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
