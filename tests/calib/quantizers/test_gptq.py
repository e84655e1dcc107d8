"""GPTQ through llm-compressor: the codes that are recovered from its weights, against round to nearest."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.quantizers.gptq import gptq
from edgekiln.errors import EdgekilnError
from edgekiln.sources.resolve import resolve
from support.models import VOCABULARY, save_checkpoint, tiny_model

NAME = "model.layers.0.mlp.up_proj"


def silent(_step: str, _done: float) -> None:
    pass


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EdgekilnError, match=r"gptq needs llm-compressor: `pip install 'edgekiln\[calib\]'`"):
        gptq(tiny_model("llama"), {}, np.zeros((1, 8), dtype=np.int64), silent)


def output_error(values: np.ndarray, weight: torch.Tensor, inputs: torch.Tensor) -> float:
    return float((inputs @ (torch.from_numpy(values) - weight).t()).square().sum())


@pytest.mark.slow
@pytest.mark.llm_compressor
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_codes_give_the_weight_that_is_left_in_the_model(tmp_path: Path, symmetric: bool) -> None:
    save_checkpoint(tmp_path / "model", "llama", num_hidden_layers=1)
    model = load_model(resolve(str(tmp_path / "model")))
    weight = model.get_submodule(NAME).weight.detach().clone()
    read: list[torch.Tensor] = []
    scheme = Scheme(4, 32, symmetric, "none")
    windows = np.random.default_rng(0).integers(0, VOCABULARY, (8, 32))
    with model.get_submodule(NAME).register_forward_pre_hook(lambda _, given: read.append(given[0].detach()[0])):
        model(input_ids=torch.from_numpy(windows[:1]))
    quantized = gptq(model, {NAME: scheme}, windows, silent)
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
