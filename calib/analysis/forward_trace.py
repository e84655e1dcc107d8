"""Which modules read and return which tensors in a forward pass."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from edgekiln.calib.expert_linears import ExpertLinears, expert_linears

_TOKENS = 8
# Where the values of a tensor are, which views of it share, and how many there are.
_Id = tuple[int, int]


def _id(tensor: torch.Tensor) -> _Id:
    return tensor.data_ptr(), tensor.numel()


def _is_router(module: torch.nn.Module, columns: int) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dim() == 2 and weight.shape[1] == columns


class ForwardTrace:
    """The tensors that modules read and returned in one forward pass, by id.

    Attributes:
        tensors: keeps the tensors alive, so that their ids stay unique.
        layer_readers: id of a tensor to the linear layers that read it.
        other_readers: id of a tensor to the other modules that read it.
        returned_by: id of a tensor to the module that returned it.
        calls: how often each module ran.
        groups: linear layers that read the same tensor.
        input_of: group to the id of its tensor.
    """

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.layer_readers: dict[_Id, list[str]] = defaultdict(list)
        self.other_readers: dict[_Id, list[str]] = defaultdict(list)
        self.returned_by: dict[_Id, str] = {}
        self.calls: dict[str, int] = defaultdict(int)
        self.groups: list[tuple[str, ...]] = []
        self.input_of: dict[tuple[str, ...], _Id] = {}
        self._routers: set[str] = set()

    def routers(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The routers that read the tensor of the group `names`."""
        return tuple(name for name in self.other_readers[self.input_of[names]] if name in self._routers)

    def find_routers(self, model: PreTrainedModel) -> None:
        """Find the routers of the experts in groups: the modules beside them whose weight has as many columns."""
        for experts in expert_linears(model).values():
            for key, names in self.layer_readers.items():
                if not any(model.get_submodule(name) is experts[0] for name in names):
                    continue
                beside = [name for name in self.other_readers[key] if name.startswith(f"{experts.weight.block}.")]
                self._routers |= {name for name in beside if _is_router(model.get_submodule(name), experts.weight.k)}


def trace_forward(model: PreTrainedModel, layers: set[str]) -> ForwardTrace:
    """Observe a forward pass of a few tokens.

    Args:
        model: any causal language model, with the linear layers of its experts if these are among `layers`.
        layers: names of linear layers.
    """
    trace = ForwardTrace()
    # Module that multiplies by stacked parameters -> names of their linear layers, and the tensor that it reads.
    experts: dict[str, list[tuple[str, ExpertLinears]]] = defaultdict(list)
    inputs: dict[str, torch.Tensor] = {}
    for name, each in expert_linears(model).items():
        if f"{name}.0" in layers:
            experts[name.rpartition(".")[0]].append((name, each))

    def before(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            trace.calls[name] += 1
            for value in (*arguments, *keywords.values()):
                if isinstance(value, torch.Tensor):
                    trace.tensors.append(value)
                    if name in experts:
                        inputs.setdefault(name, value)
                    elif name in layers:
                        trace.layer_readers[_id(value)].append(name)
                    else:
                        trace.other_readers[_id(value)].append(name)

        return hook

    def before_expert(owner: str, name: str, each: ExpertLinears) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            if name in seen:
                return
            seen.add(name)
            x = arguments[0]
            value = inputs[owner] if _has_rows(inputs[owner], x) else x
            trace.tensors.append(value)
            trace.layer_readers[_id(value)] += [f"{name}.{expert}" for expert in range(len(each))]

        return hook

    seen: set[str] = set()

    def after(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, torch.Tensor):
                trace.tensors.append(output)
                trace.returned_by[_id(output)] = name

        return hook

    handles = []
    of_experts = {child for found in experts.values() for _, each in found for child in each}
    for owner, found in experts.items():
        for name, each in found:
            handles += [child.register_forward_pre_hook(before_expert(owner, name, each)) for child in each]
    for name, module in model.named_modules():
        if module in of_experts:
            continue
        # A module that has children but no weights passes its arguments on to the children.
        if module._parameters or not list(module.children()):
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after(name)))
    try:
        sample_logits(model)
    finally:
        for handle in handles:
            handle.remove()
    for key, names in trace.layer_readers.items():
        group = tuple(dict.fromkeys(names))
        trace.groups.append(group)
        trace.input_of[group] = key
    trace.find_routers(model)
    return trace


def _has_rows(tensor: torch.Tensor, rows: torch.Tensor) -> bool:
    """Whether each of `rows` [T, K] is a row of the tensor [..., K]."""
    if tensor.shape[-1] != rows.shape[-1]:
        return False
    return bool((rows[:, None] == tensor.reshape(1, -1, rows.shape[-1])).all(-1).any(-1).all())


@torch.no_grad()
def sample_logits(model: PreTrainedModel) -> torch.Tensor:
    """The logits [1, T, V] of a few random tokens, always the same."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (1, _TOKENS), generator=generator)
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits
