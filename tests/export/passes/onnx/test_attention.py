"""The attention of standard ops against numpy: what the families of the parity tests combine only in part."""

from typing import Any

import numpy as np
import pytest

from edgekiln.export import canonical
from edgekiln.export.passes.onnx.attention import LowerToOnnxAttention
from support.attention_graphs import FEATURES, attention_graph, cached, new_tokens
from support.graphs import run_reference, standard_session

PAST, NEW = 6, 5


@pytest.mark.parametrize("features", FEATURES, ids=str)
@pytest.mark.parametrize("fused", [True, False])
def test_a_growing_cache(features: dict[str, Any], fused: bool) -> None:
    # The sequences are padded on the left, as `start` says.
    starts = [1, 3]
    model = attention_graph(starts, **features)
    rng = np.random.default_rng(0)
    positions = np.arange(PAST, PAST + NEW) - np.array(starts)[:, None]
    feeds = {**new_tokens(rng, 2, NEW), **cached(rng, 2, PAST), "position_ids": positions, "input_ids": positions}
    expected = run_reference(model, feeds)
    LowerToOnnxAttention(None, fused)(model)
    model.opset_imports.pop(canonical.DOMAIN)
    for got, wanted in zip(standard_session(model).run(None, feeds), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-6)
