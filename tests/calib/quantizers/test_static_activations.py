"""Static activation scales: chosen by the output error, shared within a layer group, dropped where too inaccurate."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekiln.calib.analysis.output_error import measured_error
from edgekiln.calib.calibrate import calibrate
from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.presets import preset
from edgekiln.calib.quantization_plan import plan_quantization, quantized_tensors
from edgekiln.calib.quantizers.static_activations import choose_scale
from edgekiln.calib.recipe import LayerSpec, Override, Recipe
from edgekiln.sources.resolve import resolve
from support.formats import FORMATS, write_quantized
from support.models import VOCABULARY, save_checkpoint

STATIC = Scheme(8, None, True, "int8-static")
RECIPE = Recipe(default=LayerSpec(bits=8, activation="int8-static"))
WINDOWS = np.random.default_rng(0).integers(0, VOCABULARY, (4, 24))


def silent(_step: str, _done: float) -> None:
    pass


def rounded(x: np.ndarray, scale: float) -> np.ndarray:
    return np.clip(np.rint(x / scale), -128, 127) * scale


def test_few_outliers_are_clipped_and_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(shape, generator=generator) for shape in ((200, 64), (48, 64)))
    plain = choose_scale(inputs, [weight])
    # The largest of 12800 normal values is about 4 standard deviations, so that all values fit.
    assert plain.scale * 127 == pytest.approx(float(inputs.abs().max()), rel=0.3)
    inputs[7, 3] = 900.0
    found = choose_scale(inputs, [weight])
    assert found.scale * 127 < 100
    assert found.clipped == pytest.approx(float((inputs.abs() > 127.5 * found.scale).float().mean()))
    assert found.clipped > 0
    assert plain.clipped < 1e-3


def test_the_error_is_the_output_error_and_near_its_minimum() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(shape, generator=generator) for shape in ((400, 64), (500, 64)))
    inputs *= torch.logspace(-1, 1, 64)
    found = choose_scale(inputs, [weight[:200], weight[200:]])
    exact = (inputs @ weight.t()).numpy()

    def squares(scale: float) -> np.ndarray:
        return ((rounded(inputs.numpy(), scale) @ weight.t().numpy() - exact) ** 2).sum(1)

    def error(scale: float) -> float:
        return float((squares(scale) / (exact**2).sum(1)).mean())

    # choose_scale takes the errors of input channels as independent.
    assert found.error == pytest.approx(squares(found.scale).sum() / (exact**2).sum(), rel=0.1)
    assert error(found.scale) < 1.1 * min(error(found.scale * factor) for factor in (0.25, 0.5, 0.7, 1.4, 2, 4))


def test_layers_that_read_one_tensor_share_a_scale(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "llama", num_hidden_layers=1)
    source, recipe = calibrate(resolve(str(tmp_path / "model")), RECIPE, WINDOWS, silent)
    assert recipe == RECIPE
    scales = {}
    for name in (
        *(f"self_attn.{kind}_proj" for kind in "qkvo"),
        *(f"mlp.{kind}_proj" for kind in ("gate", "up", "down")),
    ):
        layer = f"model.layers.0.{name}.weight"
        stored = source.weights.prequantized(layer)
        assert stored is not None
        assert stored.matching(STATIC) is stored
        weight = stored.read()
        np.testing.assert_array_equal(weight.codes, quantize(source.weights.read(layer), STATIC).codes)
        assert weight.scheme == stored.scheme == STATIC
        assert weight.input_scale is not None
        assert weight.input_clipped is not None
        scales[name.rpartition(".")[2]] = weight.input_scale
    assert scales["q_proj"] == scales["k_proj"] == scales["v_proj"]
    assert scales["gate_proj"] == scales["up_proj"]
    assert len(set(scales.values())) == 4


def test_layers_that_do_not_fit_get_one_scale_per_token(tmp_path: Path) -> None:
    model = save_checkpoint(tmp_path / "model", "llama", num_hidden_layers=2)
    # The input of the second down projection is a thousand times larger for one token.
    outlier = int(WINDOWS[0, 0])
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0
        model.model.embed_tokens.weight[outlier] = 0
        model.model.embed_tokens.weight[outlier, 0] = 30
        model.model.layers[1].mlp.up_proj.weight[:, 0] = 4000
    model.save_pretrained(tmp_path / "model")
    source, recipe = calibrate(resolve(str(tmp_path / "model")), RECIPE, WINDOWS, silent)
    name = "model.layers.1.mlp.down_proj"
    token = [override.match for override in recipe.overrides]
    assert name in token
    assert recipe.overrides == tuple(Override(match=layer, activation="int8-per-token") for layer in token)
    assert source.notes[-1].startswith(
        f"{len(token)} layers do not fit a static activation scale and get one scale per token:"
    )
    assert source.weights.prequantized(f"{name}.weight") is None
    assert source.weights.prequantized("model.layers.0.mlp.down_proj.weight") is not None


def test_scales_of_the_checkpoint_are_kept(tmp_path: Path) -> None:
    weights = write_quantized(tmp_path / "static", FORMATS["int8 weights and activations"])
    source, _ = calibrate(resolve(str(tmp_path / "static")), RECIPE, WINDOWS, silent)
    for name, expected in weights.items():
        stored = source.weights.prequantized(name)
        assert stored is not None
        form = stored.matching(STATIC)
        assert form is not None
        assert form.read().input_scale == 1
        np.testing.assert_allclose(form.read().dequantize(), expected, rtol=1e-6)


def test_codes_of_the_checkpoint_without_a_scale_are_kept_and_get_one(tmp_path: Path) -> None:
    weights = write_quantized(tmp_path / "dynamic", FORMATS["llm.int8"])
    source, _ = calibrate(resolve(str(tmp_path / "dynamic")), RECIPE, WINDOWS, silent)
    for name, expected in weights.items():
        stored = source.weights.prequantized(name)
        assert stored is not None
        weight = stored.read()
        assert weight.scheme == STATIC
        assert weight.input_scale is not None
        assert weight.input_scale > 0
        np.testing.assert_allclose(weight.dequantize(), expected, rtol=1e-6)


def test_experts_get_one_scale_a_token(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3_moe", num_hidden_layers=1)
    source = resolve(str(tmp_path / "model"))
    windows = np.random.default_rng(0).integers(0, VOCABULARY, (4, 24))
    calibrated, recipe = calibrate(source, preset("int8-static"), windows, silent)
    plan = plan_quantization(load_model(source), recipe, calibrated.weights.prequantized)
    activations = {layer.module: layer.scheme.activation for layer in plan.layers}
    assert activations["model.layers.0.mlp.experts.gate_up_proj"] == "int8-per-token"
    experts = next(layer for layer in plan.layers if layer.experts)
    (weight,) = [found for layer, found, _ in quantized_tensors(plan, calibrated.weights) if layer is experts]
    error = measured_error(experts, weight, calibrated)
    assert error is not None
    assert 0 < error < 1e-3
