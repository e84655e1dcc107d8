"""Statistics of the channels of layer inputs on calibration data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from edgekiln.calib.analysis.layer_groups import LayerGroup
from edgekiln.calib.data.loader import Windows
from edgekiln.progress import StepProgress


@dataclass(frozen=True)
class ActivationStats:
    """Statistics of one tensor [..., K] over all calibration tokens.

    Attributes:
        rms: float32 [K], root mean square of each channel.
        largest: float32 [K], largest magnitude of each channel.
    """

    rms: torch.Tensor
    largest: torch.Tensor

    def divided(self, factors: torch.Tensor) -> "ActivationStats":
        """The statistics after each channel was divided by its factor, float [K]."""
        return ActivationStats(self.rms / factors, self.largest / factors)


@torch.no_grad()
def collect_stats(
    model: PreTrainedModel, groups: Sequence[LayerGroup], windows: Windows, progress: StepProgress
) -> list[ActivationStats | None]:
    """Run calibration tokens through the model and collect the statistics of each group's input.

    Args:
        model: any causal language model.
        groups: layers whose inputs are observed.
        windows: int64 [windows, length] tokens.
        progress: called with the share of the windows that are done.

    Returns:
        One entry per group; None for a group that never ran.
    """
    squares: list[torch.Tensor | None] = [None] * len(groups)
    largest: list[torch.Tensor | None] = [None] * len(groups)
    tokens = [0] * len(groups)

    def observe(index: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            x = arguments[0].reshape(-1, arguments[0].shape[-1]).float()
            known, most = squares[index], largest[index]
            squares[index] = x.square().sum(0) if known is None else known + x.square().sum(0)
            largest[index] = x.abs().amax(0) if most is None else torch.maximum(most, x.abs().amax(0))
            tokens[index] += len(x)

        return hook

    handles = [
        model.get_submodule(group.reader).register_forward_pre_hook(observe(index))
        for index, group in enumerate(groups)
    ]
    try:
        for done, window in enumerate(windows):
            # Without the head: logits are not needed.
            model.base_model(input_ids=torch.from_numpy(window)[None], use_cache=False)
            progress((done + 1) / len(windows))
    finally:
        for handle in handles:
            handle.remove()
    return [
        None if total is None or most is None else ActivationStats((total / count).sqrt(), most)
        for total, most, count in zip(squares, largest, tokens, strict=True)
    ]
