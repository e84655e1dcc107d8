"""Checks for every adapter, with any layout of the KV cache."""

from collections.abc import Callable

import numpy as np

from edgekiln.runtimes.base import Logits, Runtime
from support.models import VOCABULARY

Close = Callable[[Logits, Logits], None]


def ids(length: int, seed: int = 0) -> np.ndarray:
    """int64[length], random token ids."""
    return np.random.default_rng(seed).integers(0, VOCABULARY, length)


def check_ragged_batch(expected: Runtime, runtime: Runtime, close: Close) -> None:
    """Sequences of different lengths can be prefilled in chunks and in any order, and then decode together.

    Args:
        expected: the runtime to compare with.
        runtime: the adapter.
        close: compares logits of `runtime` with those of `expected`.
    """
    caches = expected.new_cache(3), runtime.new_cache(3)
    for index, length in ((2, 11), (0, 3), (1, 20)):
        close(runtime.prefill(caches[1], index, ids(length)), expected.prefill(caches[0], index, ids(length)))
    for tokens in ids(15, 4).reshape(5, 3):
        close(runtime.step(caches[1], tokens), expected.step(caches[0], tokens))
    assert caches[1].lengths.tolist() == [8, 25, 16]
    np.testing.assert_array_equal(caches[1].tokens(1), caches[0].tokens(1))


def check_ragged_states(runtime: Runtime, tokens: np.ndarray, expected: Logits) -> None:
    """A batch of sequences with states: prefill, decode steps, rewinds to snapshots, and one sequence begun again.

    Args:
        runtime: the adapter.
        tokens: int64[S], at least 620.
        expected: float32[S, V], their logits in one sequence.
    """

    def close(actual: Logits, wanted: Logits) -> None:
        assert np.linalg.norm(actual - wanted) < 1e-4 * np.linalg.norm(wanted)

    cache = runtime.new_cache(3)
    lengths = [9, 600, 130]
    for sequence, length in enumerate(lengths):
        close(runtime.prefill(cache, sequence, tokens[:length]), expected[length - 1])
    for step in range(20):
        positions = np.array(lengths) + step
        close(runtime.step(cache, tokens[positions]), expected[positions])
    assert [cache.rewind(sequence, length) for sequence, length in enumerate((28, 619, 64))] == [9, 600, 0]
    close(runtime.prefill(cache, 2, tokens[:300]), expected[299])
    positions = np.array([9, 600, 300])
    close(runtime.step(cache, tokens[positions]), expected[positions])


def check_moved_sequences(expected: Runtime, runtime: Runtime, close: Close, tokens: np.ndarray) -> None:
    """Sequences that are exchanged or copied continue as sequences of their own do, and steps may leave the last out.

    Args:
        expected: the runtime to compare with.
        runtime: the adapter.
        close: compares logits of `runtime` with those of `expected`.
        tokens: int64[S], at least 90, that the sequences begin with.
    """

    def alone(ids: np.ndarray) -> Logits:
        return expected.prefill(expected.new_cache(), 0, ids)

    a, b, c = tokens[:30], tokens[5:75], tokens[40:44]
    cache = runtime.new_cache(3)
    for index, prompt in enumerate((a, b, c)):
        runtime.prefill(cache, index, prompt)
    cache.swap(0, 1)
    cache.swap(1, 2)
    cache.swap(2, 2)
    assert [cache.tokens(index).tolist() for index in range(3)] == [b.tolist(), c.tolist(), a.tolist()]
    logits = runtime.step(cache, tokens[80:82])
    assert logits.shape[0] == 2
    for index, prompt in enumerate((b, c)):
        close(logits[index], alone(np.append(prompt, tokens[80 + index])))
    assert cache.lengths.tolist() == [71, 5, 30]
    kept = cache.copy(0, 1, 70)
    assert kept in (0, 70)  # a cache with states keeps the lengths of its snapshots
    if not kept:
        kept = cache.copy(0, 1, 71)
    assert cache.tokens(1).tolist() == [*b, tokens[80]][:kept]
    close(runtime.prefill(cache, 1, tokens[60:68]), alone(np.concatenate([[*b, tokens[80]][:kept], tokens[60:68]])))
    logits = runtime.step(cache, tokens[83:86])
    for index, prompt in enumerate(([*b, tokens[80]], [*b, tokens[80]][:kept] + tokens[60:68].tolist(), a)):
        close(logits[index], alone(np.append(prompt, tokens[83 + index])))
    cache.release(0)
    assert cache.lengths.tolist() == [0, kept + 9, 31]
    close(runtime.prefill(cache, 0, c), alone(c))
    logits = runtime.step(cache, tokens[86:89])
    close(logits[1], alone(np.array([*[*b, tokens[80]][:kept], *tokens[60:68], tokens[84], tokens[87]])))
