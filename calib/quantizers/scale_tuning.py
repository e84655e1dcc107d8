"""Scales tuned end to end: the quantized model's predictions are drawn to those of the float model.

Codes and zero points stay; only the scales of weights in groups are trained, by the divergence of the predictions on
calibration text, after all layers are quantized. It is the second phase of EfficientQAT (Chen et al. 2024), with the
float model as the teacher.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edgekiln.calib.analysis.layer_groups import matrix
from edgekiln.calib.data.loader import Windows
from edgekiln.calib.formats.float16 import binary16
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.quantizers.coordinate_descent import weight_error

Progress = Callable[[float], None]
_EPOCHS = 2
# Of Adam, on d of the factor 1 + d that every scale gets; three times as much makes the model worse.
_RATE = 1e-3
_WARM_UP = 4
# Windows of a step, and of one pass forward and back: what backpropagation keeps grows with the second.
_STEP = 4
_PASS = 1


@dataclass(frozen=True)
class Teacher:
    """What the float model makes of the calibration text.

    Attributes:
        windows: int64 [windows, length] tokens.
        hidden: float32 [windows, length, hidden_size], what its head reads.
    """

    windows: Windows
    hidden: torch.Tensor


@torch.no_grad()
def teacher(model: PreTrainedModel, windows: Windows) -> Teacher:
    """Run the float model, before anything of it is changed."""
    parts = torch.from_numpy(windows).split(_STEP)
    hidden = [model.base_model(input_ids=part, use_cache=False)[0] for part in parts]
    return Teacher(windows, torch.cat(hidden).float())


def tune_scales(
    model: PreTrainedModel,
    weights: dict[str, QuantizedWeight],
    exact: dict[str, torch.Tensor],
    taught: Teacher,
    progress: Progress,
) -> dict[str, QuantizedWeight]:
    """Train the scales of `weights`, which `model` has in place of its own.

    Args:
        model: in float32; its layers keep the tuned weights.
        weights: layer name to a weight in groups, without offsets, order or codebook.
        exact: layer name to float [N, K], what the weight stands for.
        taught: the float model's outcome.
        progress: called with how much is done.

    Returns:
        The weights with their new scales.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    layers = {name: _Tuned(model.get_submodule(name), weight) for name, weight in weights.items()}
    with _attached(layers.values()), torch.enable_grad():
        _train(model, [layer.factor for layer in layers.values()], taught, progress)
    with torch.no_grad():
        return {name: layer.finished(weights[name], exact[name]) for name, layer in layers.items()}


class _Tuned:
    """A layer whose weight is computed from its codes and the scales that are trained."""

    def __init__(self, module: torch.nn.Module, weight: QuantizedWeight) -> None:
        self.module = module
        # With scales of one the weight is its steps from the zero point, whole numbers.
        steps = torch.from_numpy(replace(weight, scales=np.ones_like(weight.scales)).dequantize())
        self._steps = steps.to(torch.int16).reshape(*weight.scales.shape, -1)
        self._shape = weight.codes.shape
        self._scales = torch.from_numpy(weight.scales)
        self.factor = torch.nn.Parameter(torch.zeros_like(self._scales))

    def scales(self) -> torch.Tensor:
        return self._scales * (1 + self.factor)

    def weight(self) -> torch.Tensor:
        """The layer's parameter, [N, K] or [K, N] as its kind has it, differentiable by `factor`."""
        values = (self._steps * self.scales()[..., None]).reshape(self._shape)
        return values.t() if isinstance(self.module, Conv1D) else values

    def finished(self, before: QuantizedWeight, exact: torch.Tensor) -> QuantizedWeight:
        """The weight with the trained scales, which the module gets too."""
        after = replace(before, scales=binary16(self.scales().detach()).numpy())
        values = torch.from_numpy(after.dequantize())
        matrix(self.module).copy_(values)
        return replace(after, relative_error=weight_error(values, exact))


@contextmanager
def _attached(layers: Iterable[_Tuned]) -> Iterator[None]:
    """Inside the block each layer computes its weight anew whenever it runs."""
    taken: list[tuple[torch.nn.Module, torch.nn.Parameter, Any]] = []
    try:
        for layer in layers:
            parameter = layer.module._parameters.pop("weight")
            assert parameter is not None
            handle = layer.module.register_forward_pre_hook(_computed(layer))
            taken.append((layer.module, parameter, handle))
        yield
    finally:
        for module, parameter, handle in taken:
            handle.remove()
            module.__dict__.pop("weight", None)
            module._parameters["weight"] = parameter


def _computed(layer: _Tuned) -> Callable[..., None]:
    def hook(module: torch.nn.Module, _arguments: Any) -> None:
        module.__dict__["weight"] = layer.weight()

    return hook


def _train(model: PreTrainedModel, factors: list[torch.nn.Parameter], taught: Teacher, progress: Progress) -> None:
    optimizer = torch.optim.Adam(factors, lr=_RATE, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)
    epochs = [torch.randperm(len(taught.windows), generator=generator) for _ in range(_EPOCHS)]
    order = [step for epoch in epochs for step in epoch.split(_STEP)]
    head = model.get_output_embeddings()
    fast_bfloat16 = _fast_bfloat16()
    for done, step in enumerate(order):
        rate = min(1.0, (done + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * done / len(order)))
        for group in optimizer.param_groups:
            group["lr"] = _RATE * rate
        optimizer.zero_grad()
        for part in step.split(_PASS):
            ids = torch.from_numpy(taught.windows[part.numpy()])
            with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16):
                hidden = model.base_model(input_ids=ids, use_cache=False)[0]
                actual = torch.log_softmax(head(hidden).float(), -1)
            with torch.no_grad():
                expected = torch.log_softmax(head(taught.hidden[part]).float(), -1)
            divergence = functional.kl_div(actual, expected, reduction="sum", log_target=True)
            (divergence / (len(step) * ids.shape[1])).backward()
        optimizer.step()
        progress((done + 1) / len(order))


def _fast_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16: twice as fast here, and as good."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
