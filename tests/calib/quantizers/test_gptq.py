"""GPTQ through llm-compressor: the codes that are recovered from its weights, against round to nearest."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekiln.calib.analysis.output_error import measured_error
from edgekiln.calib.calibrate import calibrate
from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.quantize_experts import quantize_experts
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.presets import preset
from edgekiln.calib.quantization_plan import plan_quantization
from edgekiln.calib.quantizers.gptq import gptq
from edgekiln.errors import EdgekilnError
from edgekiln.sources.resolve import resolve
from support.models import VOCABULARY, save_checkpoint, save_model, tiny_model

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
    quantized, rare = gptq(model, {NAME: scheme}, windows, silent)
    assert not rare.notes(0)
    (found,) = quantized.values()
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
@pytest.mark.llm_compressor
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "llama4_text"])
def test_experts_are_quantized_on_their_own_tokens(tmp_path: Path, family: str) -> None:
    save_checkpoint(tmp_path / "model", family, num_hidden_layers=2)
    source = resolve(str(tmp_path / "model"))
    model = load_model(source)
    windows = np.random.default_rng(0).integers(0, VOCABULARY, (16, 64))
    recipe = preset("int4-gptq")
    calibrated, _ = calibrate(source, recipe, windows, silent)
    plan = plan_quantization(model, recipe, calibrated.weights.prequantized)
    experts = [layer for layer in plan.layers if layer.experts]
    assert len(experts) == 2 * 2
    errors = np.zeros(2)
    for layer in experts:
        assert layer.experts is not None
        assert layer.prequantized is not None
        found = layer.prequantized.read()
        nearest = quantize_experts(layer.experts.of_each(source.weights.read(layer.names[0])), layer.scheme)
        assert found.codes.shape == nearest.codes.shape
        assert len(layer.prequantized.experts) == layer.experts.experts
        errors += [measured_error(layer, weight, calibrated) for weight in (found, nearest)]
    # Inputs of a random model are much alike in all directions, which leaves GPTQ little to gain.
    assert errors[0] < 0.98 * errors[1]


@pytest.mark.slow
@pytest.mark.llm_compressor
def test_experts_that_see_few_tokens_take_those_of_all_or_are_rounded_to_nearest(tmp_path: Path) -> None:
    model = tiny_model("gpt_oss", num_hidden_layers=2)
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.router.bias[1] = -1e4
    save_model(tmp_path / "model", model)
    source = resolve(str(tmp_path / "model"))
    windows = np.random.default_rng(0).integers(0, VOCABULARY, (16, 64))
    calibrated, _ = calibrate(source, preset("int4-gptq"), windows, silent)
    assert calibrated.notes == (
        "4 of 16 weights of experts saw fewer tokens of calibration data than they have inputs: 2 are quantized on the "
        "tokens of all experts of their layer, 2 are rounded to nearest",
    )
    name = "model.layers.0.mlp.experts.down_proj"
    found = calibrated.weights.prequantized(name)
    assert found is not None
    nearest = quantize(source.weights.read(name)[1].t().contiguous(), Scheme(4, 32, False, "none"))
    np.testing.assert_array_equal(found.experts[1].read().codes, nearest.codes)
    assert (found.experts[0].read().codes != found.experts[1].read().codes).any()
