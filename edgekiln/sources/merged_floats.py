"""Read tensors that transformers' conversion of a checkpoint merges or splits, as floats."""

from collections.abc import Callable
from functools import partial

import torch
from transformers import PreTrainedModel

from edgekiln.errors import UnsupportedModelError
from edgekiln.sources.conversion import Conversion

_Shape = tuple[int, ...]


class MergedFloats:
    """The floats of merged tensors.

    Args:
        model: the model on the meta device.
        where: the checkpoint, for error messages.
        shapes: of the model's tensors, by name.
        read: reads a tensor of the checkpoint.
        read_expert: reads one element of the first axis of a tensor of the checkpoint.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        where: str,
        shapes: dict[str, _Shape],
        read: Callable[[str], torch.Tensor],
        read_expert: Callable[[str, int], torch.Tensor],
    ) -> None:
        self._model = model
        self._where = where
        self._shapes = shapes
        self._read = read
        self._read_expert = read_expert
        self._others: dict[str, torch.Tensor] = {}
        self._whole: dict[str, torch.Tensor] = {}

    def read(self, conversion: Conversion, name: str) -> torch.Tensor:
        """Make `name`, one of the targets of `conversion`.

        Raises:
            UnsupportedModelError: the operations give another shape than the model has.
        """
        if conversion.by_expert(self._shapes[name]):
            return self._stack(conversion, name)
        if name not in self._others:
            # Keeps the other targets of the last conversion only: callers read them next, if at all.
            self._others = conversion.apply(self._read, self._model)
            for target in conversion.targets:
                made = self._others.get(target)
                self._check(conversion, target, None if made is None else tuple(made.shape), self._shapes[target])
        return self._others.pop(name)

    def read_expert(self, conversion: Conversion, name: str, index: int) -> torch.Tensor:
        """Make one expert of `name`, without reading others where the operations allow it.

        Raises:
            UnsupportedModelError: as `read`.
        """
        if not conversion.by_expert(self._shapes[name]):
            # The next expert is that of the same stack, as a rule.
            if name not in self._whole:
                self._whole = {name: self.read(conversion, name)}
            return self._whole[name][index]
        read = self._read if conversion.merges_experts else partial(self._element, index)
        made = conversion.apply_to_expert(index, read, self._model)
        self._check(conversion, name, tuple(made.shape), self._shapes[name][1:])
        return made

    def _element(self, index: int, name: str) -> torch.Tensor:
        return self._read_expert(name, index)

    def _stack(self, conversion: Conversion, name: str) -> torch.Tensor:
        """All experts, made one by one: memory holds them once."""
        whole = torch.empty(0)
        for index in range(self._shapes[name][0]):
            expert = self.read_expert(conversion, name, index)
            if not index:
                whole = torch.empty(self._shapes[name], dtype=expert.dtype)
            elif (dtype := torch.promote_types(whole.dtype, expert.dtype)) != whole.dtype:
                whole = whole.to(dtype)
            whole[index] = expert
        return whole

    def _check(self, conversion: Conversion, name: str, found: _Shape | None, wanted: _Shape) -> None:
        if found != wanted:
            shape = "nothing" if found is None else list(found)
            raise UnsupportedModelError(
                f"{self._where}: merging {conversion.sources[0][1]} and its like gave {shape} for {name}, "
                f"the model needs {list(wanted)}"
            )
