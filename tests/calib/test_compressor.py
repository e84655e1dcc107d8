"""GPTQ through llm-compressor: what comes off its grid, against rounding to nearest."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekiln.calib.compressor import compress
from edgekiln.calib.quantize import quantize
from edgekiln.calib.reference import load_model
from edgekiln.calib.scheme import Scheme
from edgekiln.errors import EdgekilnError
from edgekiln.sources import resolve
from models import VOCABULARY, save_checkpoint, tiny_model

NAME = "model.layers.0.mlp.up_proj"


def silent(_step: str, _done: float) -> None:
    pass


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EdgekilnError, match=r"gptq needs llm-compressor: `pip install 'edgekiln\[calib\]'`"):
        compress(tiny_model("llama"), {}, "gptq", np.zeros((1, 8), dtype=np.int64), silent)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llmcompressor") is None, reason="needs the calib extra")
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_codes_stand_for_the_weight_that_it_left(tmp_path: Path, symmetric: bool) -> None:
    save_checkpoint(tmp_path / "model", "llama", num_hidden_layers=1)
    model = load_model(resolve(str(tmp_path / "model")))
    weight = model.get_submodule(NAME).weight.detach().clone()
    scheme = Scheme(4, 32, symmetric, "none")
    windows = np.random.default_rng(0).integers(0, VOCABULARY, (8, 32))
    quantized, floats = compress(model, {NAME: scheme}, "gptq", windows, silent)
    assert floats == {}
    (found,) = [stored.read() for stored in quantized.values()]
    assert found.scheme == scheme
    assert (found.zero_points is None) == symmetric
    left = model.get_submodule(NAME).weight.detach().numpy()
    np.testing.assert_allclose(found.dequantize(), left, atol=1e-5)
    nearest = quantize(weight, scheme)
    assert not np.array_equal(found.codes, nearest.codes)
    assert found.relative_error == pytest.approx(
        float(((torch.from_numpy(left) - weight) ** 2).sum() / (weight**2).sum()), rel=1e-3
    )
