"""The weights of one part of a model, under the names of the part."""

from collections.abc import Iterable, Mapping

import torch

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.sources.weight_conversion import ConvertedWeights


class PartWeights:
    """The `WeightReader` of a part of a model.

    Args:
        whole: the weights of the model.
        names: of each tensor of the part, the name in the model.
    """

    def __init__(self, whole: ConvertedWeights, names: Mapping[str, str]) -> None:
        self._whole = whole
        self._names = names
        self.nbytes = whole.nbytes

    def keys(self) -> Iterable[str]:
        untied = set(self._whole.keys())
        return [name for name, in_whole in self._names.items() if in_whole in untied]

    def __contains__(self, name: object) -> bool:
        return self._names.get(name) in self._whole  # type: ignore[call-overload]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._whole.shape(self._names[name])

    def read(self, name: str) -> torch.Tensor:
        return self._whole.read(self._names[name])

    def read_expert(self, name: str, index: int) -> torch.Tensor:
        return self._whole.read_expert(self._names[name], index)

    def prequantized(self, name: str) -> PrequantizedWeight | None:
        """The weight with the checkpoint's codes and scales; None if it holds floats, or if codes cannot be kept."""
        return self._whole.prequantized(self._names[name])
