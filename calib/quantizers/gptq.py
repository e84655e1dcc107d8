"""GPTQ (Frantar et al. 2022) through llm-compressor, followed by coordinate descent and scale tuning.

Only weights in groups are quantized this way. The int8 codes of weights with one scale per output channel are bound by
the budget for pairs of codes that `formats/per_channel.py` explains, which llm-compressor does not know.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from edgekiln.calib.analysis.layer_groups import matrix
from edgekiln.calib.data.loader import Windows
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.quantizers.calibration import Calibration
from edgekiln.calib.quantizers.coordinate_descent import coordinate_descent, weight_error
from edgekiln.calib.quantizers.llm_compressor import require_llm_compressor, run_oneshot
from edgekiln.calib.quantizers.scale_tuning import reference_states, tune_scales
from edgekiln.errors import EdgekilnError
from edgekiln.progress import Progress

# Largest distance of weight / scale from an integer for a weight that is on the grid that the library reports.
_GRID_TOLERANCE = 1e-2


def quantize(calibration: Calibration) -> None:
    """Quantize the layers in groups; see `Quantizer`."""
    quantized = gptq(calibration.model, calibration.schemes(), calibration.windows, calibration.progress)
    calibration.replace_weights(quantized=quantized)


def gptq(
    model: PreTrainedModel, schemes: dict[str, Scheme], windows: Windows, progress: Progress
) -> dict[str, PrequantizedWeight]:
    """Quantize the linear layers in groups, one decoder layer after another.

    Args:
        model: in float32; its layers get the dequantized weights.
        schemes: linear layer to its scheme; layers with one scale per channel are skipped.
        windows: int64 [windows, length] calibration tokens.
        progress: called with the step and how much of it is done.

    Returns:
        The quantized weights by name.

    Raises:
        EdgekilnError: llm-compressor is not installed, or does not support the model.
    """
    require_llm_compressor("gptq")
    grouped = {name: scheme for name, scheme in schemes.items() if scheme.group_size}
    if not grouped:
        return {}
    reference = reference_states(model, windows)
    refinement = _Refinement(model, grouped)
    run_oneshot(
        model,
        "gptq",
        _modifiers,
        grouped,
        windows,
        lambda done: progress("calibrating (gptq)", done),
        refinement,
    )
    if missing := sorted(grouped.keys() - refinement.found.keys()):
        raise EdgekilnError(f"llm-compressor skipped {missing[0]}: use --quant int4, and report this")
    found = tune_scales(
        model, refinement.found, refinement.original, reference, lambda done: progress("tuning scales", done)
    )
    return {
        f"{name}.weight": PrequantizedWeight(scheme, lambda weight=found[name]: weight)  # type: ignore[misc]
        for name, scheme in grouped.items()
    }


def _modifiers(groups: dict[str, Any]) -> list[Any]:
    from llmcompressor.modifiers.gptq import GPTQModifier

    return [GPTQModifier(**groups)]


class _Refinement:
    """A `LayerObserver` that improves each layer by coordinate descent as soon as GPTQ has quantized it.

    Attributes:
        modules: the layers by name.
        original: their weights before GPTQ, float [N, K].
        found: the quantized weights of the layers that are done.
    """

    def __init__(self, model: PreTrainedModel, schemes: dict[str, Scheme]) -> None:
        self.modules = {name: model.get_submodule(name) for name in schemes}
        self.found: dict[str, QuantizedWeight] = {}
        self._schemes = schemes
        self.original = {name: matrix(module).detach().clone() for name, module in self.modules.items()}
        self._moments: dict[str, torch.Tensor] = {}
        # Layers that read the same tensor run one after the other, so that its X^T X is computed once.
        self._last: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)

    def input_hook(self, name: str) -> Callable[..., None]:
        """A hook that accumulates X^T X over the inputs X of the layer `name`."""

        def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            if arguments[0] is not self._last[0]:
                x = arguments[0].detach().reshape(-1, arguments[0].shape[-1]).float()
                self._last = (arguments[0], x.t() @ x)
            moments = self._last[1]
            assert moments is not None
            known = self._moments.get(name)
            self._moments[name] = moments.clone() if known is None else known.add_(moments)

        return hook

    @torch.no_grad()
    def finish(self, modules: Iterable[torch.nn.Module]) -> None:
        """Improve those of `modules` that GPTQ has quantized."""
        present = set(modules)
        self._last = (None, None)
        for name in [name for name in self.original if name not in self.found and self.modules[name] in present]:
            module, original = self.modules[name], self.original[name]
            weight = _quantized_weight(module, self._schemes[name], original, name)
            moments = self._moments.pop(name, None)
            if moments is not None:  # None for an expert that no token was routed to
                weight = coordinate_descent(original, weight, moments)
                matrix(module).copy_(torch.from_numpy(weight.dequantize()))
            self.found[name] = weight


def _quantized_weight(module: torch.nn.Module, scheme: Scheme, original: torch.Tensor, name: str) -> QuantizedWeight:
    """Recover the codes of a weight that GPTQ has rounded to the grid of the module's scales and zero points."""
    assert scheme.group_size is not None
    half = 1 << (scheme.bits - 1)
    weight = matrix(module).detach().float()
    n = weight.shape[0]
    scales = getattr(module, "weight_scale").detach().float().reshape(n, -1)  # noqa: B009 - not an attribute of torch
    zero = torch.zeros_like(scales)
    if not scheme.symmetric:
        zero = getattr(module, "weight_zero_point").detach().float().reshape(n, -1)  # noqa: B009
    steps = weight.reshape(n, -1, scheme.group_size) / scales[..., None] + zero[..., None] + half
    codes = steps.round()
    if not bool((steps - codes).abs().max() < _GRID_TOLERANCE) or codes.min() < 0 or codes.max() >= 2 * half:
        raise EdgekilnError(f"llm-compressor left {name} off its own grid: use --quant int4, and report this")
    values = (codes - zero[..., None] - half) * scales[..., None]
    return QuantizedWeight(
        scheme=scheme,
        codes=codes.reshape(weight.shape).numpy().astype(np.uint8),
        scales=scales.numpy(),
        zero_points=None if scheme.symmetric else (zero + half).numpy().astype(np.uint8),
        relative_error=weight_error(values.reshape(weight.shape), original.float()),
        clipped=0.0,
    )
