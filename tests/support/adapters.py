"""What every adapter has to do, whatever its cache; `close` holds its logits against the truth's."""

from collections.abc import Callable

import numpy as np

from edgekiln.runtimes.base import Logits, Runtime
from support.models import VOCABULARY

Close = Callable[[Logits, Logits], None]


def ids(length: int, seed: int = 0) -> np.ndarray:
    """Random tokens."""
    return np.random.default_rng(seed).integers(0, VOCABULARY, length)


def check_ragged_rows(truth: Runtime, runtime: Runtime, close: Close) -> None:
    """Rows of several lengths are prefilled in chunks, in any order, and stepped together."""
    caches = truth.new_cache(3), runtime.new_cache(3)
    for row, length in ((2, 11), (0, 3), (1, 20)):
        close(runtime.prefill(caches[1], row, ids(length)), truth.prefill(caches[0], row, ids(length)))
    for tokens in ids(15, 4).reshape(5, 3):
        close(runtime.step(caches[1], tokens), truth.step(caches[0], tokens))
    assert caches[1].lengths.tolist() == [8, 25, 16]
    np.testing.assert_array_equal(caches[1].tokens(1), caches[0].tokens(1))
