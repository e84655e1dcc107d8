"""What the readers of a tensor see on calibration data, channel by channel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from edgekiln.calib.analysis.layer_groups import Readers
from edgekiln.calib.data.loader import Windows


@dataclass(frozen=True)
class Channels:
    """One tensor over all calibration tokens.

    Attributes:
        rms: float32 [K], root of the mean square of each channel.
        largest: float32 [K], the largest magnitude of each channel.
    """

    rms: torch.Tensor
    largest: torch.Tensor

    def divided(self, factors: torch.Tensor) -> "Channels":
        """The same with each channel divided by its factor of float [K]."""
        return Channels(self.rms / factors, self.largest / factors)


@torch.no_grad()
def observe(
    model: PreTrainedModel, groups: Sequence[Readers], windows: Windows, progress: Callable[[float], None]
) -> list[Channels | None]:
    """Run int64 [windows, length] through the model and note what each group reads; None for one that never ran."""
    squares: list[torch.Tensor | None] = [None] * len(groups)
    largest: list[torch.Tensor | None] = [None] * len(groups)
    rows = [0] * len(groups)

    def watch(index: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            x = arguments[0].reshape(-1, arguments[0].shape[-1]).float()
            known, most = squares[index], largest[index]
            squares[index] = x.square().sum(0) if known is None else known + x.square().sum(0)
            largest[index] = x.abs().amax(0) if most is None else torch.maximum(most, x.abs().amax(0))
            rows[index] += len(x)

        return hook

    handles = [
        model.get_submodule(group.layers[0]).register_forward_pre_hook(watch(index))
        for index, group in enumerate(groups)
    ]
    try:
        for done, window in enumerate(windows):
            # The head's logits are of no interest.
            model.base_model(input_ids=torch.from_numpy(window)[None], use_cache=False)
            progress((done + 1) / len(windows))
    finally:
        for handle in handles:
            handle.remove()
    return [
        None if total is None or most is None else Channels((total / count).sqrt(), most)
        for total, most, count in zip(squares, largest, rows, strict=True)
    ]
