"""Which linear layers read one tensor, and whose weight can take a factor of its channels.

Found by watching a forward of a few tokens, so that no table of architectures is needed. A producer is believed only
after the model with random factors moved through it has given the same logits.
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
class Producer:
    """A module whose output channels, each times a factor, are what the readers see, each times its factor.

    Attributes:
        name: module name.
        rows: int64 [K], the output channel of the producer that each input of the readers comes from.
        offset: the module multiplies by `weight + offset`, as Gemma's norms do.
    """

    name: str
    rows: torch.Tensor
    offset: float = 0.0


@dataclass(frozen=True)
class Readers:
    """Linear layers that read one tensor [..., K]."""

    layers: tuple[str, ...]
    producer: Producer | None


def find_readers(model: PreTrainedModel, layers: Sequence[str]) -> list[Readers]:
    """Group the linear layers named `layers` by the tensor they read, with the producers that can take factors."""
    watched = _watch(model, set(layers))
    found = []
    for names in watched.readers:
        producer = _norm(model, watched, names) or _neighbour(model, names)
        found.append(Readers(names, producer))
    for kind in (_is_norm, _is_neighbour):
        if not _proves(model, [group for group in found if kind(model, group)]):
            found = [Readers(group.layers, None) if kind(model, group) else group for group in found]
    return found


def matrix(module: torch.nn.Module) -> torch.Tensor:
    """The weight of a linear layer as a view [N, K]."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight.t() if isinstance(module, Conv1D) else weight


@torch.no_grad()
def scale(model: PreTrainedModel, group: Readers, factors: torch.Tensor) -> None:
    """Divide the input channels of a group by float [K] `factors`, in place: the producer gives less, the readers'
    weights make up for it, and the model computes what it did.

    Inputs that come from one output channel of the producer must have one factor.
    """
    assert group.producer is not None
    for name in group.layers:
        matrix(model.get_submodule(name)).mul_(factors)
    module = model.get_submodule(group.producer.name)
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, torch.Tensor)
    whole = torch.ones(matrix(module).shape[0] if weight.dim() > 1 else len(weight), dtype=factors.dtype)
    whole[group.producer.rows] = factors
    if weight.dim() > 1:
        matrix(module).div_(whole[:, None])
    else:
        weight.copy_((weight + group.producer.offset) / whole - group.producer.offset)
    if bias is not None:
        bias.div_(whole)


class _Watched:
    """Ids of the tensors that modules gave and took, while they live."""

    def __init__(self) -> None:
        self.alive: list[Any] = []
        self.taken: dict[int, list[str]] = defaultdict(list)
        self.others: dict[int, int] = defaultdict(int)
        self.given: dict[int, str] = {}
        self.times: dict[str, int] = defaultdict(int)
        self.readers: list[tuple[str, ...]] = []
        self.input_of: dict[tuple[str, ...], int] = {}


def _watch(model: PreTrainedModel, layers: set[str]) -> _Watched:
    watched = _Watched()

    def before(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            watched.times[name] += 1
            for value in (*arguments, *keywords.values()):
                if isinstance(value, torch.Tensor):
                    watched.alive.append(value)
                    if name in layers:
                        watched.taken[id(value)].append(name)
                    else:
                        watched.others[id(value)] += 1

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, torch.Tensor):
                watched.alive.append(output)
                watched.given[id(output)] = name

        return hook

    handles = []
    for name, module in model.named_modules():
        # A module without weights of its own only hands on what its children take.
        if module._parameters or not list(module.children()):
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after(name)))
    try:
        _logits(model)
    finally:
        for handle in handles:
            handle.remove()
    for key, names in watched.taken.items():
        group = tuple(dict.fromkeys(names))
        watched.readers.append(group)
        watched.input_of[group] = key
    return watched


def _norm(model: PreTrainedModel, watched: _Watched, names: tuple[str, ...]) -> Producer | None:
    key = watched.input_of[names]
    name = watched.given.get(key)
    if name is None or watched.others[key] or watched.times[name] != 1:
        return None
    module = model.get_submodule(name)
    weight = getattr(module, "weight", None)
    columns = matrix(model.get_submodule(names[0])).shape[1]
    if not isinstance(weight, torch.Tensor) or weight.shape != (columns,):
        return None
    # At a weight of zero a norm that multiplies by (1 + weight) still gives something.
    with torch.no_grad():
        kept = weight.clone()
        weight.zero_()
        offset = float(_without_bias(module, torch.linspace(-1, 1, columns)[None]).abs().max() > 0)
        weight.copy_(kept)
    return Producer(name, torch.arange(columns), offset)


def _without_bias(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    output = module(x)
    bias = getattr(module, "bias", None)
    assert isinstance(output, torch.Tensor)
    return output if bias is None else output - bias


# What feeds what through operations that keep a factor: the product with a gate, and attention.
_NEIGHBOURS = {"down_proj": "up_proj", "o_proj": "v_proj"}


def _neighbour(model: PreTrainedModel, names: tuple[str, ...]) -> Producer | None:
    owner, _, own = names[0].rpartition(".")
    parent = model.get_submodule(owner)
    producer = getattr(parent, _NEIGHBOURS.get(own, ""), None)
    if len(names) > 1 or not isinstance(producer, torch.nn.Linear):
        return None
    columns, rows = matrix(parent.get_submodule(own)).shape[1], producer.weight.shape[0]
    index = torch.arange(columns)
    if columns != rows:
        head = getattr(parent, "head_dim", None)
        if not isinstance(head, int) or columns % rows or rows % head:
            return None
        share = columns // rows
        index = index // head // share * head + index % head
    return Producer(f"{owner}.{_NEIGHBOURS[own]}", index)


def _is_norm(model: PreTrainedModel, group: Readers) -> bool:
    return group.producer is not None and not _is_neighbour(model, group)


def _is_neighbour(model: PreTrainedModel, group: Readers) -> bool:
    return group.producer is not None and isinstance(model.get_submodule(group.producer.name), torch.nn.Linear)


def _proves(model: PreTrainedModel, groups: Sequence[Readers]) -> bool:
    """Whether the model gives the same logits with random factors moved through `groups`."""
    if not groups:
        return True
    expected = _logits(model)
    with _scaled(model, groups):
        actual = _logits(model)
    return bool((actual - expected).abs().max() <= _TOLERANCE * expected.abs().max())


@contextmanager
def _scaled(model: PreTrainedModel, groups: Sequence[Readers]) -> Iterator[None]:
    """Random factors inside the block, the very weights of before after it."""
    names = {name for group in groups for name in (*group.layers, group.producer.name if group.producer else "")}
    kept = [(tensor, tensor.detach().clone()) for name in names for tensor in _tensors(model, name)]
    generator = torch.Generator().manual_seed(0)
    try:
        for group in groups:
            assert group.producer is not None
            random = torch.rand(int(group.producer.rows.max()) + 1, generator=generator) + 0.5
            scale(model, group, random[group.producer.rows])
        yield
    finally:
        with torch.no_grad():
            for tensor, values in kept:
                tensor.copy_(values)


def _tensors(model: PreTrainedModel, name: str) -> list[torch.Tensor]:
    return list(model.get_submodule(name).parameters(recurse=False))


@torch.no_grad()
def _logits(model: PreTrainedModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (1, _TOKENS), generator=generator)
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits
