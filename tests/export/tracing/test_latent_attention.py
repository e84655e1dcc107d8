"""The KV cache of latent attention; the parity tests compare its logits."""

from typing import Any

import pytest

from edgekiln.export.tracing.cache_trace import KeyValueShape
from edgekiln.export.tracing.meta_model import build_meta_model
from edgekiln.export.tracing.trace import layer_caches
from support.models import tiny_config


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        # rank 16 and 8 rotated elements, for 4 heads of 16 + 8.
        ({}, KeyValueShape(1, 24)),
        # A rank for which the keys and values of all heads are smaller.
        ({"kv_lora_rank": 128}, KeyValueShape(4, 24)),
    ],
)
def test_the_smaller_cache_is_kept(options: dict[str, Any], shape: KeyValueShape) -> None:
    caches = layer_caches(build_meta_model(tiny_config("deepseek_v3", **options)))
    assert caches == [[shape]] * len(caches)
