"""GPTQ and AWQ through llm-compressor: what comes off their grid, against rounding to nearest."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.quantizers.compressor import compress
from edgekiln.errors import EdgekilnError
from edgekiln.sources.resolve import resolve
from support.models import VOCABULARY, save_checkpoint, tiny_model

NAME = "model.layers.0.mlp.up_proj"


def silent(_step: str, _done: float) -> None:
    pass


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EdgekilnError, match=r"gptq needs llm-compressor: `pip install 'edgekiln\[calib\]'`"):
        compress(tiny_model("llama"), {}, "gptq", np.zeros((1, 8), dtype=np.int64), silent)


def output_error(values: np.ndarray, weight: torch.Tensor, inputs: torch.Tensor) -> float:
    return float((inputs @ (torch.from_numpy(values) - weight).t()).square().sum())


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_codes_stand_for_the_weight_that_it_left(tmp_path: Path, symmetric: bool) -> None:
    save_checkpoint(tmp_path / "model", "llama", num_hidden_layers=1)
    model = load_model(resolve(str(tmp_path / "model")))
    weight = model.get_submodule(NAME).weight.detach().clone()
    read: list[torch.Tensor] = []
    scheme = Scheme(4, 32, symmetric, "none")
    windows = np.random.default_rng(0).integers(0, VOCABULARY, (8, 32))
    with model.get_submodule(NAME).register_forward_pre_hook(lambda _, given: read.append(given[0].detach()[0])):
        model(input_ids=torch.from_numpy(windows[:1]))
    quantized, floats = compress(model, {NAME: scheme}, "gptq", windows, silent)
    assert floats == {}
    (found,) = [stored.read() for stored in quantized.values()]
    assert found.scheme == scheme
    assert (found.zero_points is None) == symmetric
    left = model.get_submodule(NAME).weight.detach().numpy()
    np.testing.assert_allclose(found.dequantize(), left, atol=1e-6)
    nearest = quantize(weight, scheme)
    assert output_error(left, weight, read[0]) < 0.7 * output_error(nearest.dequantize(), weight, read[0])
    assert found.relative_error == pytest.approx(
        float(((torch.from_numpy(left) - weight) ** 2).sum() / (weight**2).sum()), rel=1e-3
    )


@pytest.mark.slow
def test_awq_moves_factors_and_the_model_computes_what_it_did(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "llama", num_hidden_layers=1)
    source = resolve(str(tmp_path / "model"))
    model, moved = load_model(source), load_model(source)
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)][:-1]
    windows = np.random.default_rng(0).integers(0, VOCABULARY, (4, 32))
    quantized, floats = compress(model, dict.fromkeys(names, Scheme(4, 32, False, "none")), "awq", windows, silent)
    assert quantized == {}
    parameters = dict(moved.named_parameters())
    assert any(not torch.equal(parameters[name], value) for name, value in floats.items())
    ids = torch.from_numpy(windows)
    expected = moved(input_ids=ids).logits
    with torch.no_grad():
        for name, value in floats.items():
            parameters[name].copy_(value)
    torch.testing.assert_close(moved(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
