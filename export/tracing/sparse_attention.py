"""Attention to the keys that an indexer chooses, traced as attention to all keys.

An indexer (DeepSeek sparse attention and its like) scores all keys for each query, and attention sees the best of them
only. A sequence that has no more keys than the indexer chooses is computed exactly without it; in a longer one each
query attends to more keys than the model chooses. The weights and the cache of the indexer are not needed.
"""

from collections.abc import Callable
from typing import Any

import torch

from edgekiln.export.tracing.latent_attention import keep_latent


class EveryKey(torch.nn.Module):
    """In place of an indexer: no choice of keys, as None.

    Attributes:
        exact_length: tokens up to which the indexer chooses every key.
    """

    def __init__(self, exact_length: int) -> None:
        super().__init__()
        self.exact_length = exact_length

    def forward(self, *_: Any, **__: Any) -> None:
        """None, whatever the arguments."""


def every_key(exact_length: Callable[[Any], int]) -> Callable[[Any], None]:
    """The `prepare` of attention modules with an `indexer`.

    Args:
        exact_length: takes the configuration; returns as `EveryKey.exact_length`.
    """

    def prepare(module: Any) -> None:
        # Layers without an indexer either attend to all keys, or to those that the indexer of an earlier layer chose.
        if module.indexer is not None or getattr(module, "skip_topk", False):
            module.indexer = EveryKey(exact_length(module.config))

    return prepare


def tokens(config: Any) -> int:
    """Keys that an indexer of single keys chooses."""
    topk: int = config.index_topk
    return topk


def blocks(config: Any) -> int:
    """Keys in the blocks that an indexer of blocks chooses, among which are those of the query itself."""
    length: int = config.index_topk_blocks * config.index_block_size
    return length


def budget(config: Any) -> int:
    """Keys in the blocks that an indexer with a budget of keys chooses, and in the last block before it is full."""
    ratio: int = config.indexer_compress_ratio
    return config.indexer_budget // ratio * ratio + ratio - 1


def latent_and_every_key(module: Any) -> None:
    """`keep_latent` and `every_key`."""
    keep_latent(module)
    every_key(tokens)(module)


def notes(model: torch.nn.Module, max_length: int) -> list[str]:
    """The note for the build report, where an engine of `max_length` tokens is not exact."""
    lengths = [module.exact_length for module in model.modules() if isinstance(module, EveryKey)]
    if not lengths or max_length <= min(lengths):
        return []
    return [
        f"attention is dense: exact up to {min(lengths)} tokens, beyond which each token attends to all keys and not "
        "only to those that the model's indexer would choose"
    ]
