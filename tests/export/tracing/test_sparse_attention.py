"""Attention with an indexer attends to all keys, which is exact where the indexer chooses all of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekiln import runtimes
from edgekiln.engine.reports import read_report
from edgekiln.export.tracing.layer_dedup import find_layers, find_representatives
from edgekiln.export.tracing.meta_model import build_meta_model
from edgekiln.export.tracing.sparse_attention import notes
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.meta_model import meta_model
from edgekiln.sources.resolve import resolve
from support.models import VOCABULARY, save_checkpoint, tiny_config

LENGTH = 24
EXACT = 8
# With many heads no score is exactly zero, which would be a tie of the top-k.
TOKENS = {"index_topk": EXACT, "index_n_heads": 16}
BLOCKS = {"index_topk_blocks": 2, "index_block_size": 4}
NOTE = (
    "attention is dense: exact up to 8 tokens, beyond which each token attends to all keys and not only to those that "
    "the model's indexer would choose"
)


def logits_of(model: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(input_ids=torch.tensor(tokens)[None], use_cache=False).logits[0].numpy()
    return logits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("glm_moe_dsa", {**TOKENS, "indexer_types": ["full", "shared", "shared", "full"]}),
        ("minimax_m3_vl_text", BLOCKS),
        *((family, TOKENS) for family in ("axk2", "deepseek_v32", "dots3_note_text", "hy_v4")),
        # A budget of whole blocks of 3, and the last 2 keys.
        ("qwen4_exp_text", {"indexer_budget": 6, "indexer_compress_ratio": 3}),
    ],
)
def test_longer_sequences_attend_to_all_keys(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = save_checkpoint(tmp_path / "model", family, **options)
    engine = tmp_path / "engine"
    build_engine(resolve(str(tmp_path / "model")), engine, BuildOptions(quant="none", max_length=LENGTH))
    assert NOTE in read_report(engine).notes
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, LENGTH)
    logits = runtimes.open(engine, threads=1).score(tokens)
    sparse = logits_of(model, tokens)
    for module in model.modules():
        if type(module).__name__.endswith("Indexer"):
            module.index_topk = module.topk_blocks = module.block_topk = LENGTH
            module.token_budget = 2 * LENGTH
    np.testing.assert_allclose(logits, logits_of(model, tokens), atol=1e-3, rtol=0)
    np.testing.assert_allclose(logits[:EXACT], sparse[:EXACT], atol=1e-3, rtol=0)
    assert np.abs(logits - sparse).max() > 0.1


def test_an_engine_of_exact_lengths_has_no_note() -> None:
    model = build_meta_model(tiny_config("deepseek_v32", **TOKENS))
    assert notes(model, EXACT) == []
    assert notes(model, EXACT + 1) == [NOTE]
    assert notes(build_meta_model(tiny_config("llama")), 1 << 20) == []


def test_the_weights_of_indexers_are_not_read() -> None:
    config = tiny_config("deepseek_v32")
    assert any("indexer" in name for name in meta_model(config).state_dict())
    assert not any("indexer" in name for name in build_meta_model(config).state_dict())


def test_layers_that_pass_on_a_choice_of_keys_are_traced_once() -> None:
    config = tiny_config("glm_moe_dsa", indexer_types=["full", "shared", "shared", "shared"])
    model = build_meta_model(config)
    found = find_layers(model, 4)
    assert found is not None
    assert find_representatives(list(found[1]), model.config) == [0, 1, 1, 1]
