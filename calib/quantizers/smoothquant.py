"""Even out the channels of what linear layers read, so that 8 bits a token lose little.

SmoothQuant (Xiao et al. 2022) divides each input channel by s = a^α / w^(1-α) and multiplies the weight's column by
it; w is the largest weight of the column, a the largest activation of the channel. Here a is the root mean square of
the channel: a few tokens are far larger than all others, and have a scale of their own anyway.
"""

import torch
from transformers import PreTrainedModel

from edgekiln.calib.analysis.activation_stats import Channels
from edgekiln.calib.analysis.layer_groups import Readers, matrix, scale

_TINY = 1e-6
_RANGE = (1e-3, 1e3)


def smooth(model: PreTrainedModel, group: Readers, channels: Channels, strength: float) -> Channels:
    """Move factors from what `group` reads into its weights, in place; what it then reads.

    Args:
        model: the model.
        group: linear layers with a producer.
        channels: what they read before.
        strength: α: 0 leaves activations as they come and evens out the weights, 1 the other way round.
    """
    assert group.producer is not None
    layers = [matrix(model.get_submodule(name)) for name in group.layers]
    columns = torch.cat([layer.detach().abs().amax(0, keepdim=True) for layer in layers]).amax(0)
    activation = _largest_sharer(channels.rms, group.producer.rows).clamp(min=_TINY)
    weight = _largest_sharer(columns, group.producer.rows).clamp(min=_TINY)
    factors = activation.pow(strength) / weight.pow(1 - strength)
    factors = (factors / factors.log().mean().exp()).clamp(*_RANGE)
    scale(model, group, factors)
    return channels.divided(factors)


def _largest_sharer(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """float [K] with, for each input, the largest of all that come from the same output of the producer."""
    largest = torch.zeros(int(rows.max()) + 1, dtype=values.dtype).scatter_reduce(0, rows, values, "amax")
    return largest[rows]
