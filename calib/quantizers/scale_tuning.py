"""Scale tuning: train the scales of a quantized model end to end, towards the predictions of the float32 model.

After all layers are quantized, codes and zero points stay fixed and the scales of weights in groups are trained. The
loss is the KL divergence from the float32 model's predictions on calibration data. This is the second phase of
EfficientQAT (Chen et al. 2024), with distillation from the float32 model.
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
from edgekiln.calib.formats.float16 import round_to_float16
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.quantizers.coordinate_descent import weight_error
from edgekiln.progress import StepProgress

_EPOCHS = 2
# Learning rate of Adam for d, where each scale is multiplied by 1 + d. With three times as much the model gets worse.
_LEARNING_RATE = 1e-3
_WARM_UP_STEPS = 4
# Windows per optimizer step, and per forward and backward pass, whose activations are kept in memory.
_BATCH = 4
_MICRO_BATCH = 1


@dataclass(frozen=True)
class ReferenceStates:
    """Outputs of the float32 model on calibration data.

    Attributes:
        windows: int64 [windows, length] tokens.
        hidden: float32 [windows, length, hidden_size], the inputs of the head.
    """

    windows: Windows
    hidden: torch.Tensor


@torch.no_grad()
def reference_states(model: PreTrainedModel, windows: Windows) -> ReferenceStates:
    """Run the float32 model, before its weights are changed, over int64 [windows, length] tokens."""
    parts = torch.from_numpy(windows).split(_BATCH)
    hidden = [_decoder(model)(input_ids=part, use_cache=False)[0] for part in parts]
    return ReferenceStates(windows, torch.cat(hidden).float())


def tune_scales(
    model: PreTrainedModel,
    weights: dict[str, QuantizedWeight],
    exact: dict[str, torch.Tensor],
    reference: ReferenceStates,
    progress: StepProgress,
) -> dict[str, QuantizedWeight]:
    """Train the scales of quantized weights.

    Args:
        model: in float32, with the dequantized `weights` in its layers; they get the tuned weights.
        weights: layer name to a weight in groups, without group biases, column order or codebook.
        exact: layer name to float [N, K], the weight before quantization.
        reference: outputs of the float32 model.
        progress: called with the share of the steps that are done.

    Returns:
        The weights with their new scales.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    layers = {name: _TunedLayer(model.get_submodule(name), weight) for name, weight in weights.items()}
    with _attached(layers.values()), torch.enable_grad():
        _train(model, [layer.factor for layer in layers.values()], reference, progress)
    with torch.no_grad():
        return {name: layer.tuned_weight(weights[name], exact[name]) for name, layer in layers.items()}


class _TunedLayer:
    """A layer whose weight is computed from fixed codes and trainable scales."""

    def __init__(self, module: torch.nn.Module, weight: QuantizedWeight) -> None:
        self.module = module
        # Dequantized with scales of 1, the weight is code - zero_point, an integer.
        steps = torch.from_numpy(replace(weight, scales=np.ones_like(weight.scales)).dequantize())
        self._steps = steps.to(torch.int16).reshape(*weight.scales.shape, -1)
        self._shape = weight.codes.shape
        self._scales = torch.from_numpy(weight.scales)
        self.factor = torch.nn.Parameter(torch.zeros_like(self._scales))

    def scales(self) -> torch.Tensor:
        return self._scales * (1 + self.factor)

    def weight(self) -> torch.Tensor:
        """The module's weight, [N, K] or, for Conv1D, [K, N]; differentiable in `factor`."""
        values = (self._steps * self.scales()[..., None]).reshape(self._shape)
        return values.t() if isinstance(self.module, Conv1D) else values

    def tuned_weight(self, before: QuantizedWeight, exact: torch.Tensor) -> QuantizedWeight:
        """The weight with the trained scales, which is also copied into the module."""
        after = replace(before, scales=round_to_float16(self.scales().detach()).numpy())
        values = torch.from_numpy(after.dequantize())
        matrix(self.module).copy_(values)
        return replace(after, relative_error=weight_error(values, exact))


@contextmanager
def _attached(layers: Iterable[_TunedLayer]) -> Iterator[None]:
    """Inside the block each layer computes its weight whenever it runs."""
    taken: list[tuple[torch.nn.Module, torch.nn.Parameter, Any]] = []
    try:
        for layer in layers:
            parameter = layer.module._parameters.pop("weight")
            assert parameter is not None
            handle = layer.module.register_forward_pre_hook(_compute_weight(layer))
            taken.append((layer.module, parameter, handle))
        yield
    finally:
        for module, parameter, handle in taken:
            handle.remove()
            module.__dict__.pop("weight", None)
            module._parameters["weight"] = parameter


def _compute_weight(layer: _TunedLayer) -> Callable[..., None]:
    def hook(module: torch.nn.Module, _arguments: Any) -> None:
        module.__dict__["weight"] = layer.weight()

    return hook


def _train(
    model: PreTrainedModel, factors: list[torch.nn.Parameter], reference: ReferenceStates, progress: StepProgress
) -> None:
    optimizer = torch.optim.Adam(factors, lr=_LEARNING_RATE, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)
    epochs = [torch.randperm(len(reference.windows), generator=generator) for _ in range(_EPOCHS)]
    batches = [batch for epoch in epochs for batch in epoch.split(_BATCH)]
    head = model.get_output_embeddings()
    fast_bfloat16 = _has_fast_bfloat16()
    for done, batch in enumerate(batches):
        # Linear warm-up, then cosine decay.
        rate = min(1.0, (done + 1) / _WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * done / len(batches)))
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * rate
        optimizer.zero_grad()
        for part in batch.split(_MICRO_BATCH):
            ids = torch.from_numpy(reference.windows[part.numpy()])
            with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16):
                hidden = _decoder(model)(input_ids=ids, use_cache=False)[0]
                actual = torch.log_softmax(head(hidden).float(), -1)
            with torch.no_grad():
                expected = torch.log_softmax(head(reference.hidden[part]).float(), -1)
            divergence = functional.kl_div(actual, expected, reduction="sum", log_target=True)
            (divergence / (len(batch) * ids.shape[1])).backward()
        optimizer.step()
        progress((done + 1) / len(batches))


def _decoder(model: PreTrainedModel) -> torch.nn.Module:
    """The model without its head. The base_model of Llama 4's text model is the model itself."""
    return model.base_model if model.base_model is not model else model.get_submodule("model")


def _has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16, which makes training twice as fast with the same result."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
