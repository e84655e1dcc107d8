"""Log-probabilities of tokens under the model, and the tokens that it finds most likely."""

import math
from collections.abc import Iterable

import numpy as np

from edgekiln.runtimes.base import Logits
from edgekiln.runtimes.sampling.filters import top_k


def log_probabilities(logits: Logits, tokens: Iterable[int]) -> list[float]:
    """Natural logarithm of the softmax of float32[V] `logits` at each of `tokens`."""
    highest = logits.max()
    with np.errstate(over="ignore"):  # -inf, of probability 0
        total = np.exp(logits - highest).sum(dtype=np.float64)
        return [float(logits[token] - highest) - math.log(total) for token in tokens]


def most_likely(logits: Logits, count: int) -> list[int]:
    """Up to `count` ids of the highest of float32[V] `logits`, in this order, the lowest id of equal ones first.

    None of probability 0.
    """
    if not count:
        return []
    ids = top_k(logits, count)
    ids = ids[np.argsort(-logits[ids], kind="stable")][:count]
    return ids[logits[ids] > -np.inf].tolist()
