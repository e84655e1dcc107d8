"""Keep the codes of quantized weights that transformers' conversion of a checkpoint merges or splits.

The operations are applied to matrices of row numbers, which tells the row of the checkpoint that each row of the model
has; the rows of the codes, scales and zero points are then taken likewise.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.sources.conversion import Conversion
from edgekiln.sources.quantized.merge import CodesNotKeptError, merge, stack
from edgekiln.sources.row_order import numbered, row_order

_MATRIX = 2
_MORE = "the conversion of transformers does more than move their rows"
_Rows = npt.NDArray[np.int64]


class MergedCodes:
    """The quantized weights of merged tensors.

    Args:
        model: the model on the meta device.
        shape: gives the shape of a tensor of the checkpoint.
        prequantized: gives the quantized weight of a tensor of the checkpoint; None for floats.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        shape: Callable[[str], tuple[int, ...]],
        prequantized: Callable[[str], PrequantizedWeight | None],
    ) -> None:
        self._model = model
        self._shape = shape
        self._prequantized = prequantized
        self._orders: dict[tuple[object, ...], list[_Rows | None]] = {}

    def weight(self, conversion: Conversion, name: str, shape: tuple[int, ...]) -> PrequantizedWeight | None:
        """The weight [N, K] of `name`, or [E * N, K] of a stack of experts; None if the checkpoint holds floats.

        Args:
            conversion: makes it.
            name: one of its targets.
            shape: of the target.

        Raises:
            CodesNotKeptError: the checkpoint holds codes, and they make no weight of the model.
        """
        found = {source: self._prequantized(source) for _, source in conversion.sources}
        weights = {source: weight for source, weight in found.items() if weight is not None}
        if not weights:
            return None
        if len(weights) < len(found):
            raise CodesNotKeptError("only some parts or experts of a layer are quantized in a format of engines")
        if len(shape) == _MATRIX:
            return merge(list(weights.values()), self._order(conversion, None, name))
        if not conversion.by_expert(shape):
            raise CodesNotKeptError(_MORE)
        if not conversion.merges_experts:
            return self._stored_stack(conversion, weights)
        experts = []
        for index in range(shape[0]):
            parts = [weights[source] for _, source in conversion.sources_of(index)]
            experts.append(merge(parts, self._order(conversion, index, name)))
        return stack(experts)

    def _stored_stack(self, conversion: Conversion, weights: dict[str, PrequantizedWeight]) -> PrequantizedWeight:
        """The weight of experts that the checkpoint has stacked, where the conversion leaves them as they are."""
        (source, weight), *others = weights.items()
        _, rows, columns = self._shape(source)
        numbers = torch.from_numpy(numbered(rows, columns, 0, np.int32))
        made = numbers if others else conversion.apply_to_expert(0, lambda _: numbers, self._model)
        if others or not weight.experts or not torch.equal(made, numbers):
            raise CodesNotKeptError(_MORE)
        return weight

    def _order(self, conversion: Conversion, expert: int | None, name: str) -> _Rows:
        """The row of each row of the matrix `name`, or of an expert of it, counted through all sources."""
        sources = [source for _, source in (conversion.sources if expert is None else conversion.sources_of(expert))]
        shapes = tuple(self._shape(source) for source in sources)
        # The order is the same in every layer and for every expert.
        key = (id(conversion.converter), shapes)
        if key not in self._orders:
            self._orders[key] = self._find_orders(conversion, expert, dict(zip(sources, shapes, strict=True)))
        rows = self._orders[key][conversion.targets.index(name)]
        if rows is None:
            raise CodesNotKeptError(_MORE)
        return rows

    def _find_orders(
        self, conversion: Conversion, expert: int | None, shapes: dict[str, tuple[int, ...]]
    ) -> list[_Rows | None]:
        """The orders of all targets; None where a target takes more than moving rows."""
        columns = next(iter(shapes.values()))[-1]
        if any(len(shape) != _MATRIX or shape[1] != columns for shape in shapes.values()):
            return [None] * len(conversion.targets)
        dtype = np.int32 if sum(map(math.prod, shapes.values())) < 1 << 31 else np.int64
        numbers, first = {}, 0
        for source, (rows, _) in shapes.items():
            numbers[source] = torch.from_numpy(numbered(rows, columns, first, dtype))
            first += rows
        if expert is None:
            made = conversion.apply(numbers.__getitem__, self._model)
        else:
            one = conversion.apply_to_expert(expert, numbers.__getitem__, self._model)
            made = {conversion.first_target: one}
        return [row_order(made[name].numpy(), columns) if name in made else None for name in conversion.targets]
