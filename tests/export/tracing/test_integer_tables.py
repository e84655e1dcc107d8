"""Tables of integers in a checkpoint, which say the experts of each token, are initializers of an engine."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekiln import runtimes
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from support.models import VOCABULARY, save_model, tiny_model


@pytest.mark.slow
def test_a_table_chooses_the_experts(tmp_path: Path) -> None:
    kinds = {"layer_types": ["sliding_attention"] * 2, "mlp_layer_types": ["hash_moe", "moe"], "num_hidden_layers": 2}
    model = tiny_model("deepseek_v4", **kinds)
    table = model.model.layers[0].mlp.gate.tid2eid
    table.copy_(torch.rand(len(table), model.config.n_routed_experts).argsort(dim=1)[:, : table.shape[1]])
    save_model(tmp_path / "model", model)
    build_engine(resolve(str(tmp_path / "model")), tmp_path / "engine", BuildOptions(quant="none", max_length=64))
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 24)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(tokens)[None], use_cache=False).logits[0].numpy()
    np.testing.assert_allclose(runtimes.open(tmp_path / "engine", threads=1).score(tokens), expected, atol=1e-3, rtol=0)
