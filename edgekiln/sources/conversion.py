"""transformers' operations that make tensors of a model from those of a checkpoint, of all experts or of one."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, core_model_loading
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    Interleave,
    MergeModulelist,
    Transpose,
    WeightConverter,
)

_STACK_RANK = 3
_DIMENSIONS: dict[type, tuple[str, ...]] = {
    Chunk: ("dim",),
    Concatenate: ("dim",),
    Interleave: ("dim",),
    Transpose: ("dim0", "dim1"),
}
if hasattr(core_model_loading, "Split"):  # not in transformers 5.17, which llm-compressor needs
    _DIMENSIONS[core_model_loading.Split] = ("dim",)


@dataclass
class Conversion:
    """How one or more tensors of the model are made from tensors of the checkpoint.

    Attributes:
        first_target: name of the first tensor that is made.
        sources: (pattern of the converter that matched, name in the checkpoint) of each tensor that is read.
        converter: transformers' operations; None for a mere renaming of one tensor.
        targets: names of all tensors that are made.
    """

    first_target: str
    sources: list[tuple[str, str]] = field(default_factory=list)
    converter: WeightConverter | None = None
    targets: tuple[str, ...] = ()

    @property
    def merges_experts(self) -> bool:
        """The checkpoint has a tensor for each expert."""
        return self.converter is not None and isinstance(self.converter.operations[0], MergeModulelist)

    def by_expert(self, shape: Sequence[int]) -> bool:
        """Whether the experts of the stack that is made, of this shape, are made independently of each other."""
        if self.converter is None or len(self.targets) > 1 or len(shape) != _STACK_RANK:
            return False
        first, *others = self.converter.operations
        if not self.merges_experts:
            others = [first, *others]
        elif first.dim % _STACK_RANK != 0:  # type: ignore[attr-defined]
            return False
        return all(
            type(operation) in _DIMENSIONS
            and all(getattr(operation, name) % _STACK_RANK != 0 for name in _DIMENSIONS[type(operation)])
            for operation in others
        )

    def sources_of(self, index: int) -> list[tuple[str, str]]:
        """The sources of expert `index`: its own tensors, or the stacks that hold it."""
        if not self.merges_experts:
            return self.sources
        found, seen = [], dict.fromkeys((pattern for pattern, _ in self.sources), 0)
        for pattern, name in self.sources:
            if seen[pattern] == index:
                found.append((pattern, name))
            seen[pattern] += 1
        return found

    def apply(self, read: Callable[[str], torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Make all targets, by name.

        Args:
            read: reads a tensor of the checkpoint.
            model: the model on the meta device.
        """
        return self._apply(self.sources, read, model, model.config)

    def apply_to_expert(self, index: int, read: Callable[[str], torch.Tensor], model: PreTrainedModel) -> torch.Tensor:
        """Make one expert of a stack that is made `by_expert`.

        Args:
            index: of the expert.
            read: reads this expert's part of a tensor of the checkpoint.
            model: the model on the meta device.
        """

        def part(name: str) -> torch.Tensor:
            return read(name) if self.merges_experts else read(name)[None]

        return self._apply(self.sources_of(index), part, _OneExpert(model), model.config)[self.first_target][0]

    def _apply(
        self, sources: Sequence[tuple[str, str]], read: Callable[[str], torch.Tensor], model: Any, config: Any
    ) -> dict[str, torch.Tensor]:
        converter = copy.deepcopy(self.converter)
        assert converter is not None
        for pattern, name in sources:
            # add_tensor is typed for futures; it also accepts a callable, which it calls without threads.
            lazily: Any = lambda name=name: read(name)  # noqa: E731
            converter.add_tensor(self.first_target, name, pattern, lazily)
        found: dict[str, Any] = converter.convert(self.first_target, model=model, config=config)
        return {name: value[0] if isinstance(value, list) else value for name, value in found.items()}


class _OneExpert:
    """The model for operations that look at the shapes of its parameters, with stacks of one expert."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def get_parameter(self, name: str) -> torch.Tensor:
        return self._model.get_parameter(name)[:1]
