"""Embeddings of positions in decoders that take no position ids and number the tokens of a call by themselves."""

from typing import Any

import torch
import torch.nn.functional as F

from edgekiln.export.tracing.cache_trace import current


def from_table(module: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The forward of a table [positions, K] of position embeddings: its rows for the position ids of the trace.

    The first `offset` rows, of modules that have such an attribute, belong to no position.
    """
    position_ids = current().position_ids
    if position_ids is None:  # while shapes are recorded
        embedded: torch.Tensor = type(module).forward(module, *args, **kwargs)
        return embedded
    table = module.weight if hasattr(module, "weight") else module.weights
    return F.embedding(position_ids + getattr(module, "offset", 0), table)


def keep_sinusoids(module: Any) -> None:
    """Compute the table [positions, K] of TrOCRSinusoidalPositionalEmbedding, which is no buffer of its module."""
    positions, width = module.weights.shape
    with torch.device("cpu"):
        table = module.get_embedding(positions, width, module.padding_idx)
    module.register_buffer("weight", table[module.padding_idx + 1 :], persistent=False)
    module.offset = 0
