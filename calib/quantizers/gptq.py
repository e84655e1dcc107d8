"""GPTQ (Frantar et al. 2022) through llm-compressor, followed by coordinate descent and scale tuning.

Only weights in groups are quantized this way. The int8 codes of weights with one scale per output channel are bound by
the budget for pairs of codes that `formats/per_channel.py` explains, which llm-compressor does not know.

An expert sees only the tokens that the router sends to it. With fewer tokens than inputs, X^T X says nothing of most
directions, and the codes fit the few tokens at the cost of all others: docs/quantization.md has figures. Then X^T X of
all experts of the layer takes its place where they read the same tensor, as they do before the activation. Weights
behind the activation, whose inputs mean something else in each expert, are rounded to nearest.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from edgekiln.calib.analysis.layer_groups import find_layer_groups, matrix
from edgekiln.calib.data.loader import Windows
from edgekiln.calib.expert_linears import expert_linears, experts_of
from edgekiln.calib.formats.quantize import quantize as round_to_nearest
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


@dataclass
class RareExperts:
    """Weights of experts that saw fewer tokens than they have inputs, by the names of their linear layers.

    Attributes:
        pooled: those that are quantized on the tokens of all experts.
        nearest: those that are rounded to nearest.
    """

    pooled: list[str] = field(default_factory=list)
    nearest: list[str] = field(default_factory=list)

    def notes(self, total: int) -> list[str]:
        """A sentence for the user; `total` is the number of weights of experts."""
        if not self.pooled and not self.nearest:
            return []
        return [
            f"{len(self.pooled) + len(self.nearest)} of {total} weights of experts saw fewer tokens of calibration "
            f"data than they have inputs: {len(self.pooled)} are quantized on the tokens of all experts of their "
            f"layer, {len(self.nearest)} are rounded to nearest"
        ]


def quantize(calibration: Calibration) -> None:
    """Quantize the layers in groups; see `Quantizer`."""
    model, schemes = calibration.model, calibration.schemes()
    experts = _experts(model, schemes) if expert_linears(model) else {}
    quantized, rare = gptq(model, schemes, calibration.windows, calibration.progress, experts)
    calibration.replace_quantized(quantized)
    calibration.add_notes(rare.notes(len(experts)))


def _experts(model: PreTrainedModel, schemes: dict[str, Scheme]) -> dict[str, bool]:
    """Linear layers of experts, and whether all experts of the layer read the same tensor."""
    groups = find_layer_groups(model, list(schemes))
    shared = {name for group in groups if group.routers for name in group.layers}
    return {name: name in shared for name in schemes if experts_of(model, name) is not None}


def gptq(
    model: PreTrainedModel,
    schemes: dict[str, Scheme],
    windows: Windows,
    progress: Progress,
    experts: Mapping[str, bool] = MappingProxyType({}),
) -> tuple[dict[str, QuantizedWeight], RareExperts]:
    """Quantize the linear layers in groups, one decoder layer after another.

    Args:
        model: in float32; its layers get the dequantized weights.
        schemes: linear layer to its scheme; layers with one scale per channel are skipped.
        windows: int64 [windows, length] calibration tokens.
        progress: called with the step and how much of it is done.
        experts: those of the layers that see only the tokens that a router sends to them, and whether all experts of
            the layer read the same tensor.

    Returns:
        The quantized weights by the name of the layer, and the experts that saw too few tokens.

    Raises:
        EdgekilnError: llm-compressor is not installed, or does not support the model.
    """
    require_llm_compressor("gptq")
    grouped = {name: scheme for name, scheme in schemes.items() if scheme.group_size}
    if not grouped:
        return {}, RareExperts()
    reference = reference_states(model, windows)
    refinement = _Refinement(model, grouped, experts)
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
    rare = refinement.rare
    seen = {name: refinement.found[name] for name in refinement.found.keys() - {*rare.pooled, *rare.nearest}}
    tuned = tune_scales(model, seen, refinement.original, reference, lambda done: progress("tuning scales", done))
    return refinement.found | tuned, rare


def _modifiers(groups: dict[str, Any]) -> list[Any]:
    from llmcompressor.modifiers.gptq import GPTQModifier

    return [GPTQModifier(**groups)]


class _Refinement:
    """A `LayerObserver` that improves each layer by coordinate descent as soon as GPTQ has quantized it.

    Attributes:
        modules: the layers by name.
        original: their weights before GPTQ, float [N, K].
        found: the quantized weights of the layers that are done.
        rare: the experts among them that saw too few tokens.
    """

    def __init__(self, model: PreTrainedModel, schemes: dict[str, Scheme], experts: Mapping[str, bool]) -> None:
        self.modules = {name: model.get_submodule(name) for name in schemes}
        self.found: dict[str, QuantizedWeight] = {}
        self.rare = RareExperts()
        self._experts = experts
        self._tokens: Counter[str] = Counter()
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
            self._tokens[name] += arguments[0].numel() // arguments[0].shape[-1]
            known = self._moments.get(name)
            self._moments[name] = moments.clone() if known is None else known.add_(moments)

        return hook

    @torch.no_grad()
    def finish(self, modules: Iterable[torch.nn.Module]) -> None:
        """Improve those of `modules` that GPTQ has quantized."""
        present = set(modules)
        self._last = (None, None)
        names = [name for name in self.original if name not in self.found and self.modules[name] in present]
        rare = [name for name in names if name in self._experts and self._tokens[name] < self.original[name].shape[1]]
        pools = {owner: self._pool(owner, names) for owner in {_owner(name) for name in rare if self._experts[name]}}
        for name in names:
            module, original = self.modules[name], self.original[name]
            moments = self._moments.pop(name, None)
            if name in rare:
                weight = self._fallback(name, pools.get(_owner(name)))
            else:
                weight = _quantized_weight(module, self._schemes[name], original, name)
                if moments is not None:  # None for a layer that does not run
                    weight = coordinate_descent(original, weight, moments)
            matrix(module).copy_(torch.from_numpy(weight.dequantize()))
            self.found[name] = weight

    def _pool(self, owner: str, names: list[str]) -> torch.Tensor | None:
        """X^T X over the tokens of all experts of a layer; None if these are too few as well."""
        experts = [name for name in names if _owner(name) == owner and name in self._moments]
        if not experts or sum(self._tokens[name] for name in experts) < self.original[experts[0]].shape[1]:
            return None
        return torch.stack([self._moments[name] for name in experts]).sum(0)

    def _fallback(self, name: str, pool: torch.Tensor | None) -> QuantizedWeight:
        nearest = round_to_nearest(self.original[name], self._schemes[name])
        (self.rare.nearest if pool is None else self.rare.pooled).append(name)
        return nearest if pool is None else coordinate_descent(self.original[name], nearest, pool)


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


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
