"""AWQ through llm-compressor: scaled weights compute the same function."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekiln.calib.calibrate import calibrate
from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.quantizers.awq import awq
from edgekiln.calib.recipe import LayerSpec, Recipe
from edgekiln.errors import EdgekilnError
from edgekiln.sources.resolve import resolve
from support.models import VOCABULARY, save_checkpoint, tiny_model


def silent(_step: str, _done: float) -> None:
    pass


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EdgekilnError, match=r"awq needs llm-compressor: `pip install 'edgekiln\[calib\]'`"):
        awq(tiny_model("llama"), {}, np.zeros((1, 8), dtype=np.int64), silent)


@pytest.mark.slow
@pytest.mark.llm_compressor
@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_awq_changes_weights_and_not_what_the_model_computes(tmp_path: Path, family: str) -> None:
    save_checkpoint(tmp_path / "model", family, num_hidden_layers=2)
    source = resolve(str(tmp_path / "model"))
    windows = np.random.default_rng(0).integers(0, VOCABULARY, (4, 32))
    recipe = Recipe(method="awq", default=LayerSpec(bits=4, group_size=32, symmetric=False))
    calibrated, _ = calibrate(source, recipe, windows, silent)
    model, original = load_model(calibrated), load_model(source)
    before = dict(original.named_parameters())
    changed = [name for name, value in model.named_parameters() if not torch.equal(before[name], value)]
    assert changed
    if family != "llama":
        assert any("experts" in name and "shared" not in name for name in changed)
        assert any(name.endswith(("gate.weight", "router.weight")) for name in changed)
    ids = torch.from_numpy(windows)
    with torch.no_grad():
        expected = original(input_ids=ids).logits
        torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-3, rtol=1e-3)
