"""SmoothQuant (Xiao et al. 2022): even out the channels of layer inputs, so that int8 activations lose little.

SmoothQuant divides each input channel by s = a^α / w^(1-α) and multiplies the weight's column by it, where w is the
largest magnitude in the column and a is the largest magnitude in the channel. Here a is the channel's root mean square:
the few tokens whose activations are far larger than all others have a scale of their own anyway.
"""

import torch
from transformers import PreTrainedModel

from edgekiln.calib.analysis.activation_stats import ActivationStats, collect_stats
from edgekiln.calib.analysis.layer_groups import LayerGroup, find_layer_groups, matrix, scale_input_channels
from edgekiln.calib.quantizers.calibration import Calibration

_SMALLEST = 1e-6
_FACTOR_RANGE = (1e-3, 1e3)


def quantize(calibration: Calibration) -> None:
    """Smooth the inputs of layers with int8 activations, in the groups that have a predecessor; see `Quantizer`."""
    model, recipe, layers, kept = calibration.model, calibration.recipe, calibration.layers, calibration.kept
    assert recipe.smoothquant is not None
    specs = {name: recipe.spec(calibration.planned(name)) for name in layers if name not in kept}
    int8 = [name for name, spec in specs.items() if spec and spec.activation != "none"]
    groups = [group for group in find_layer_groups(model, list(layers)) if set(group.layers) <= set(int8)]
    able = [group for group in groups if group.predecessor is not None and group.predecessor.name not in kept]
    if not able:
        calibration.add_notes(["SmoothQuant cannot be applied to any layer of this model"] if int8 else [])
        return
    # Groups whose predecessor is itself a quantized layer come first: they divide output channels of its weight,
    # which must precede the statistics of that weight's input channels.
    able.sort(key=lambda group: not (group.predecessor is not None and group.predecessor.name in layers))
    stats = collect_stats(model, able, calibration.windows, lambda done: calibration.progress("calibrating", done))
    changed: set[str] = set()
    for group, activation in zip(able, stats, strict=True):
        if activation is not None and group.predecessor is not None:
            smooth_group(model, group, activation, recipe.smoothquant)
            changed |= {*group.layers, *group.routers, group.predecessor.name}
    total = {calibration.planned(name) for name in int8}
    left = len(total - {calibration.planned(name) for group in able for name in group.layers})
    calibration.replace_weights(floats=calibration.parameters(changed))
    calibration.add_notes(
        [f"SmoothQuant cannot be applied to the inputs of {left} of {len(total)} layers"] if left else []
    )


def smooth_group(
    model: PreTrainedModel, group: LayerGroup, activation: ActivationStats, strength: float
) -> ActivationStats:
    """Move factors from the inputs of a group into its weights, in place.

    Args:
        model: the model.
        group: linear layers with a predecessor.
        activation: statistics of the group's input.
        strength: α; 0 leaves activations as they are and evens out the weights, 1 evens out the activations.

    Returns:
        The statistics of the group's input after the change.
    """
    assert group.predecessor is not None
    layers = [matrix(model.get_submodule(name)) for name in group.layers]
    columns = torch.cat([layer.detach().abs().amax(0, keepdim=True) for layer in layers]).amax(0)
    activations = _largest_per_source_channel(activation.rms, group.predecessor.channels).clamp(min=_SMALLEST)
    weights = _largest_per_source_channel(columns, group.predecessor.channels).clamp(min=_SMALLEST)
    factors = activations.pow(strength) / weights.pow(1 - strength)
    factors = (factors / factors.log().mean().exp()).clamp(*_FACTOR_RANGE)
    scale_input_channels(model, group, factors)
    return activation.divided(factors)


def _largest_per_source_channel(values: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Replace each of `values` [K] by the largest among the inputs that come from the same predecessor channel."""
    largest = torch.zeros(int(channels.max()) + 1, dtype=values.dtype).scatter_reduce(0, channels, values, "amax")
    return largest[channels]
