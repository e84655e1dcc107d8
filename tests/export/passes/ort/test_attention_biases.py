"""Sinks, ALiBi and chunks of GroupQueryAttention against numpy, with both kernels, over a shared buffer."""

from typing import Any

import numpy as np
import pytest

from edgekiln.export.passes.ort.group_query_attention import LowerToGroupQueryAttention, cache_windows
from edgekiln.runtimes.base import KernelsChoice
from support.attention_graphs import FEATURES, attention_graph, cached, new_tokens
from support.graphs import run_reference, session

CAPACITY = 32
# A prompt, a chunk after it, a decode step of a ragged batch, and many tokens, which edgekiln's kernels prefill.
STEPS = [([0], 6), ([5], 4), ([3, 17, 0], 1), ([9], 20)]


@pytest.mark.parametrize("features", FEATURES, ids=str)
@pytest.mark.parametrize(("pasts", "length"), STEPS)
@pytest.mark.parametrize("start", [None, 4], ids=["", "window buffers"])
def test_matches_numpy(
    features: dict[str, Any], pasts: list[int], length: int, start: int | None, kernels: KernelsChoice
) -> None:
    window = features.get("window") or features.get("chunk")
    if start is not None and not window:
        pytest.skip("the layer has no window")
    rng = np.random.default_rng(0)
    canonical = attention_graph([0], **features)
    new, buffers = new_tokens(rng, len(pasts), length), cached(rng, len(pasts), CAPACITY)
    lowered = canonical.clone()
    assert cache_windows(lowered, 4096) == ({0: window} if window else {})
    LowerToGroupQueryAttention(4096, window_buffers=start is not None)(lowered)
    positions = np.stack([np.arange(past, past + length) for past in pasts])
    # Slot 0 of a window buffer has position `start`; what a window buffer no longer has is not attended to.
    first = 0 if start is None else min(start, *(max(0, past + 1 - window) for past in pasts))
    feeds = {**new, "position_ids": positions, "input_ids": positions}
    held = {name: buffer[:, :, first:].copy() for name, buffer in buffers.items()}
    run = session(lowered, kernels)
    if start is not None:
        feeds[f"window_start.{window}"] = np.full(len(pasts), first)
    wanted = {value.name for value in run.get_inputs()}
    out, *_ = run.run(None, {name: array for name, array in {**feeds, **held}.items() if name in wanted})
    for sequence, past in enumerate(pasts):
        one = slice(sequence, sequence + 1)
        expected, *_ = run_reference(
            canonical,
            {
                **{name: array[one] for name, array in feeds.items() if not name.startswith("window")},
                **{name: buffer[one, :, :past] for name, buffer in buffers.items()},
            },
        )
        np.testing.assert_allclose(out[one], expected, atol=1e-5)
