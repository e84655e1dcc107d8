"""Linear layers for the experts of a model, so that calibration observes and changes each expert as any other layer.

transformers keeps one parameter for all experts of a layer and multiplies by slices of it, which no hook of a module
sees. `add_expert_linears` gives each slice a `torch.nn.Linear`, which then computes every product with it. The forward
of transformers' own modules stays, so that no table of architectures is needed.

llm-compressor can replace experts by linear layers as well, but only those with a configuration whose attributes it
knows, and it renames their weights.
"""

import functools
import types
from collections.abc import Callable
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from edgekiln.calib.moe import ExpertWeight, expert_weights

# Appended to the name of a stacked parameter: the name of its linear layers.
EACH: Final = "_each"
_TOKENS = 8
# Whether the second argument of a product is [N, K].
_PRODUCTS: Final[dict[Any, bool]] = {
    torch.nn.functional.linear: True,
    **dict.fromkeys(
        (
            torch.matmul,
            torch.mm,
            torch.bmm,
            torch.Tensor.matmul,
            torch.Tensor.mm,
            torch.Tensor.bmm,
            torch.Tensor.__matmul__,
        ),
        False,
    ),
}


class ExpertLinears(torch.nn.ModuleList):
    """The linear layers of one stacked parameter, in the order of the experts. Their weights are views of it.

    Attributes:
        weight: the shapes and the name of the parameter.
        calls: how many products were computed.
    """

    def __init__(self, weight: ExpertWeight, parameter: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.calls = 0
        for each in weight.of_each(parameter.detach()):
            linear = torch.nn.Linear(weight.k, weight.n, bias=False, device="meta")
            linear.weight = torch.nn.Parameter(each, requires_grad=False)
            self.append(linear)
        self._shape = parameter.shape
        # A product is known by where its weight is stored.
        self._start = parameter.data_ptr()
        self._bytes = parameter.numel() * parameter.element_size()

    def product(self, x: torch.Tensor, weight: torch.Tensor, rows: bool) -> torch.Tensor | None:
        """x times a slice of the parameter; None for any other weight.

        Args:
            x: [..., K], or [E, T, K] for all experts, where rows of zeros stand for tokens that chose others.
            weight: the slice [N, K] if `rows`, otherwise [K, N]; or [E, ..., ...] for all experts.
            rows: the order of the axes of `weight`.
        """
        offset = weight.data_ptr() - self._start
        each = (self.weight.n, self.weight.k) if rows else (self.weight.k, self.weight.n)
        if not 0 <= offset < self._bytes or weight.shape[-2:] != each:
            return None
        self.calls += 1
        if weight.dim() == 2:
            return self._of(offset // (self._bytes // len(self)), x)
        return torch.stack([self._of_chosen(expert, rows) for expert, rows in enumerate(x)])

    def _of(self, expert: int, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self[expert](x)
        return result

    def _of_chosen(self, expert: int, x: torch.Tensor) -> torch.Tensor:
        chosen = x.detach().abs().amax(-1) > 0
        if not bool(chosen.any()):
            return x.new_zeros(len(x), self.weight.n)
        some = self._of(expert, x[chosen])  # autocast may give it another type than x
        return some.new_zeros(len(x), self.weight.n).index_put((chosen,), some)

    def stacked(self) -> torch.Tensor:
        """The weights as they are now, in the shape of the parameter."""
        values = torch.stack([linear.get_parameter("weight").detach() for linear in self])
        return (values.transpose(1, 2) if self.weight.transposed else values).reshape(self._shape).contiguous()


class _Redirect(TorchFunctionMode):
    """Inside the context, the linear layers of experts compute the products with slices of their parameters."""

    def __init__(self, experts: list[ExpertLinears]) -> None:
        super().__init__()
        self._experts = experts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rows = _PRODUCTS.get(func)
        if rows is not None and len(args) > 1 and isinstance(args[1], torch.Tensor):
            for experts in self._experts:
                product = experts.product(args[0], args[1], rows)
                if product is not None:
                    bias = args[2] if len(args) > 2 else kwargs.get("bias")
                    return product if bias is None else product + bias
        return func(*args, **kwargs)


@torch.no_grad()
def add_expert_linears(model: PreTrainedModel) -> list[ExpertLinears]:
    """Give all experts of a model linear layers, named `PARAMETER_each.EXPERT`; the model computes the same.

    Returns:
        The linear layers of each stacked parameter whose products could be redirected to them.
    """
    owners: dict[str, list[ExpertLinears]] = {}
    for name, weight in expert_weights(model).items():
        owner, _, attribute = name.rpartition(".")
        module: Any = model.get_submodule(owner)
        experts = ExpertLinears(weight, getattr(module, attribute))
        setattr(module, attribute + EACH, experts)
        owners.setdefault(owner, []).append(experts)
    if not owners:
        return []
    for owner, found in owners.items():
        module = model.get_submodule(owner)
        if hasattr(module, "is_transposed"):  # the forward that takes one expert after another
            module.config._experts_implementation_internal = "eager"
        # A bound method, as llm-compressor wraps it once more.
        module.forward = types.MethodType(_redirected(module.forward.__func__, found), module)
    model.base_model(input_ids=torch.arange(_TOKENS)[None] % model.config.vocab_size, use_cache=False)
    for owner, found in owners.items():
        for experts in [experts for experts in found if not experts.calls]:
            delattr(model.get_submodule(owner), experts.weight.name.rpartition(".")[2] + EACH)
            found.remove(experts)
    return [experts for found in owners.values() for experts in found]


def expert_linears(model: PreTrainedModel) -> dict[str, ExpertLinears]:
    """The linear layers of the experts of a model by the name of their module."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ExpertLinears)}


def planned_layer(model: PreTrainedModel, name: str) -> str:
    """The name by which recipes and plans know a linear layer: all experts of a layer share one."""
    experts = experts_of(model, name)
    return experts.weight.layer if experts else name


def experts_of(model: PreTrainedModel, name: str) -> ExpertLinears | None:
    """The linear layers of experts that the one named `name` is among; None for any other linear layer."""
    owner = name.rpartition(".")[0]
    module = model.get_submodule(owner) if owner.endswith(EACH) else None
    return module if isinstance(module, ExpertLinears) else None


def _redirected(forward: Callable[..., Any], experts: list[ExpertLinears]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*arguments: Any, **keywords: Any) -> Any:
        with _Redirect(experts):
            return forward(*arguments, **keywords)

    return run
