"""The weights of mixtures of experts: parameters that hold one weight of all experts of a layer.

Most experts are modules that transformers marks with `use_experts_implementation`, whose parameters are stacked along
axis 0. The others have a row in `_OWN`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch


@dataclass(frozen=True)
class ExpertWeight:
    """One weight of all experts of a layer.

    Attributes:
        name: of the parameter in the model.
        experts: how many experts have it.
        n, k: outputs and inputs of an expert.
        transposed: the parameter is [experts, k, n]; otherwise it is [experts, n, k].
        stored_as_matrix: the first two axes of the parameter are one.
        block: name of the module around the experts, with their router.
    """

    name: str
    experts: int
    n: int
    k: int
    transposed: bool
    block: str
    stored_as_matrix: bool = False

    @property
    def layer(self) -> str:
        """The name that recipes and reports know it by."""
        return self.name.removesuffix(".weight")

    def of_each(self, weight: torch.Tensor) -> torch.Tensor:
        """The weights [experts, n, k] as a view of the parameter's value."""
        stored = (self.experts, self.k, self.n) if self.transposed else (self.experts, self.n, self.k)
        weight = weight.reshape(stored)
        return weight.transpose(1, 2) if self.transposed else weight


# Parameter -> experts, n, k, and whether it is transposed.
_Shapes = dict[str, tuple[int, int, int, bool]]


def _dbrx(module: Any) -> _Shapes:
    mlp = module.mlp
    experts, hidden, inner = module.num_experts, mlp.hidden_size, mlp.ffn_hidden_size
    up = (experts, inner, hidden, False)
    return {"mlp.w1": up, "mlp.v1": up, "mlp.w2": (experts, hidden, inner, True)}


def _aria(module: Any) -> _Shapes:
    return {f"{name}.weight": _stacked(getattr(module, name).weight, transposed=True) for name in ("fc1", "fc2")}


def _jetmoe(module: Any) -> _Shapes:
    linears = ("input_linear", "output_linear")
    return {f"{name}.weight": _stacked(getattr(module, name).weight, transposed=False) for name in linears}


def _stacked(weight: torch.Tensor, transposed: bool) -> tuple[int, int, int, bool]:
    experts, first, second = weight.shape
    return (experts, second, first, True) if transposed else (experts, first, second, False)


def _projections(module: Any) -> _Shapes:
    return _stacked_parameters(module, transposed=False)


def _transposed_projections(module: Any) -> _Shapes:
    return _stacked_parameters(module, transposed=True)


# Class of a module that transformers does not mark -> its weights.
_OWN: Final[dict[str, Callable[[Any], _Shapes]]] = {
    "AriaExperts": _aria,  # before transformers 5.24
    "DbrxExperts": _dbrx,
    "JetMoeMoA": _jetmoe,
    "JetMoeMoE": _jetmoe,
    "Llama4TextExperts": _transposed_projections,
    "LongcatFlashExperts": _projections,
}
_NAMES: Final = ("gate_up_proj", "up_proj", "down_proj")
_MATRIX: Final = 2
# Modules of a router, whose linear layers choose experts.
_ROUTERS: Final = frozenset({"gate", "router"})


def expert_weights(model: torch.nn.Module) -> dict[str, ExpertWeight]:
    """The weights of all experts of a model by the name of their parameter, in the order of its modules."""
    return {weight.name: weight for name, module in model.named_modules() for weight in _of(name, module)}


def in_router(name: str) -> bool:
    """Whether a linear layer of that name is part of a router, which stays in floating point as in llama.cpp."""
    return not _ROUTERS.isdisjoint(name.split(".")[:-1])


def _of(owner: str, module: torch.nn.Module) -> Iterator[ExpertWeight]:
    for parameter, shape in _shapes(module).items():
        name, block = f"{owner}.{parameter}", owner.rpartition(".")[0]
        yield ExpertWeight(name, *shape, block, stored_as_matrix=module.get_parameter(parameter).ndim == _MATRIX)


def _shapes(module: torch.nn.Module) -> _Shapes:
    transposed = getattr(module, "is_transposed", None)  # set by transformers' mark
    if transposed is not None:
        return _stacked_parameters(module, transposed)
    own = _OWN.get(type(module).__name__)
    return own(module) if own else {}


def _stacked_parameters(module: Any, transposed: bool) -> _Shapes:
    names = (name for name in _NAMES if isinstance(getattr(module, name, None), torch.nn.Parameter))
    return {name: _stacked(getattr(module, name), transposed) for name in names}
