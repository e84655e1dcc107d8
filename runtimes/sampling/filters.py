"""Filters that restrict a draw to likely tokens, as transformers defines them, and the draw itself."""

import math

import numpy as np

from edgekiln.runtimes.base import Ids, Logits

# Weights summed together before the search in `pick`.
BLOCK = 256
# Scores of which `highest` takes the maximum first.
BLOCK_OF_MAXIMA = 64
# Weights that `top_p` sorts at first: most nuclei are smaller.
FIRST_NUCLEUS = 256


def top_k(scores: Logits, k: int) -> Ids:
    """Ascending indices of the `k` highest of float32[N] `scores`, and of scores equal to the k-th highest."""
    if k >= scores.size:
        return np.arange(scores.size)
    return np.flatnonzero(scores >= highest(scores, k)[-1])


def highest(scores: Logits, k: int) -> Logits:
    """The `k` highest of float32[N] `scores`, k <= N, and scores equal to the k-th highest, in descending order.

    The k-th highest maximum of a block is at most the k-th highest score, and few scores are higher: only these are
    sorted.
    """
    blocks = scores.size // BLOCK_OF_MAXIMA
    if k <= blocks // 2:
        maxima = scores[: blocks * BLOCK_OF_MAXIMA].reshape(blocks, BLOCK_OF_MAXIMA).max(axis=1)
        scores = scores[scores >= np.partition(maxima, blocks - k)[blocks - k]]
    smallest = np.partition(scores, scores.size - k)[scores.size - k]
    return np.sort(scores[scores >= smallest])[::-1]


def top_p(scores: Logits, p: float) -> Ids:
    """Nucleus filter (Holtzman et al. 2020).

    Returns:
        Ascending indices of the fewest highest of float32[N] `scores` whose softmax adds up to at least `p`, and of
        scores equal to the lowest of these.
    """
    weights = np.exp(scores - scores.max())
    mass = p * float(weights.sum(dtype=np.float64))
    likely = highest(weights, min(FIRST_NUCLEUS, weights.size))
    sums = np.cumsum(likely, dtype=np.float64)
    if sums[-1] < mass:
        # N weights below (1 - p) / N add up to less than the 1 - p that is left out, since the highest weight is 1.
        likely = np.sort(weights[weights >= (1 - p) / weights.size])[::-1]
        sums = np.cumsum(likely, dtype=np.float64)
    reached = int(np.searchsorted(sums, mass))
    return np.flatnonzero(weights >= likely[min(reached, likely.size - 1)])


def min_p(scores: Logits, p: float) -> Ids:
    """Ascending indices of float32[N] `scores` whose softmax is at least `p` times the highest (Nguyen et al. 2024)."""
    return np.flatnonzero(scores >= scores.max() + math.log(p))


def pick(weights: Logits, uniform: float) -> int:
    """Draw an index with probability proportional to its weight (inverse transform sampling).

    Args:
        weights: float32[N], not negative.
        uniform: a uniform random number in [0, 1).

    Returns:
        The first index whose cumulative weight exceeds `uniform` times the sum of all weights; sums in float64.
    """
    # Sums of blocks first: a cumulative sum over a whole vocabulary would be the slowest part of a draw.
    blocks = np.cumsum(np.add.reduceat(weights, np.arange(0, weights.size, BLOCK), dtype=np.float64))
    target = uniform * blocks[-1]
    block = min(int(np.searchsorted(blocks, target, side="right")), blocks.size - 1)
    before = blocks[block - 1] if block else 0.0
    inside = np.cumsum(weights[block * BLOCK : (block + 1) * BLOCK], dtype=np.float64)
    index = min(int(np.searchsorted(inside, target - before, side="right")), inside.size - 1)
    return block * BLOCK + index
