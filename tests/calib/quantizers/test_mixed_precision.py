"""Promotion picks the layers that quantization hurts, and no more than the limits need."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.limits import Limits
from edgekiln.calib.presets import preset
from edgekiln.calib.quantization_plan import plan_quantization
from edgekiln.calib.quantizers.calibration import CalibratedWeights
from edgekiln.calib.quantizers.mixed_precision import promote_layers
from edgekiln.calib.recipe import Override
from edgekiln.errors import RequestError
from edgekiln.sources.base import ModelSource
from edgekiln.sources.resolve import resolve
from support.models import VOCABULARY, save_checkpoint

INT4 = Scheme(4, 32, False, "none")
COSTLY = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A random llama whose checkpoint has 4-bit codes, which have no error, except for one float layer."""
    directory = tmp_path_factory.mktemp("mixed_precision") / "model"
    save_checkpoint(directory, "llama", num_hidden_layers=2)
    source = resolve(str(directory))
    names = [name for name in source.weights.keys() if name.endswith("_proj.weight")]  # noqa: SIM118
    arrived = {name: quantize(source.weights.read(name), INT4) for name in names if name != f"{COSTLY}.weight"}
    floats = {name: torch.from_numpy(weight.dequantize()) for name, weight in arrived.items()}
    stored = {name: PrequantizedWeight(INT4, lambda weight=weight: weight) for name, weight in arrived.items()}  # type: ignore[misc]
    return replace(source, weights=CalibratedWeights(source.weights, floats, stored))


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCABULARY, (6, 24))


def divergence(note: str) -> float:
    return float(note.rpartition("predictions by ")[2].split()[0])


def silent(_step: str, _done: float) -> None:
    pass


def test_only_the_layer_with_an_error_is_promoted(source: ModelSource, windows: np.ndarray) -> None:
    unchanged, recipe = promote_layers(source, preset("int4"), Limits(max_kl=1e6), windows, silent)
    assert recipe == preset("int4")
    assert unchanged.notes[-1].startswith("0 of 14 layers are promoted to 8 bits in groups; on held-out")
    before = divergence(unchanged.notes[-1])
    assert before > 0

    promoted, recipe = promote_layers(source, preset("int4"), Limits(max_kl=before * 0.9), windows, silent)
    assert recipe.overrides == (Override(match=COSTLY, bits=8),)
    assert promoted.notes[-1].startswith(f"1 of 14 layers are promoted to 8 bits in groups: {COSTLY}; on held-out")
    assert divergence(promoted.notes[-1]) < before / 10


def test_layers_that_keep_the_codes_of_the_checkpoint_are_not_promoted(
    source: ModelSource, windows: np.ndarray
) -> None:
    # With the float layer promoted, 0.000007 nats are left; promoting the others, which are exact, would add to that.
    _, recipe = promote_layers(source, preset("int4"), Limits(max_kl=1e-5), windows, silent)
    assert recipe.overrides == (Override(match=COSTLY, bits=8),)


def test_int8_layers_are_promoted_to_groups(source: ModelSource, windows: np.ndarray) -> None:
    unchanged, _ = promote_layers(source, preset("int8"), Limits(max_kl=1e6), windows, silent)
    limit = divergence(unchanged.notes[-1]) / 2
    promoted, recipe = promote_layers(source, preset("int8"), Limits(max_kl=limit), windows, silent)
    assert divergence(promoted.notes[-1]) <= limit
    scheme = recipe.scheme(recipe.overrides[0].match, 128)
    assert scheme is not None
    assert (scheme.bits, scheme.group_size, scheme.activation) == (8, 32, "none")


def test_a_promoted_layer_is_quantized_from_float_again(source: ModelSource, windows: np.ndarray) -> None:
    arrived = quantize(source.weights.read(f"{COSTLY}.weight"), INT4)
    calibrated = CalibratedWeights(source.weights, {}, {f"{COSTLY}.weight": PrequantizedWeight(INT4, lambda: arrived)})
    promoted, recipe = promote_layers(
        replace(source, weights=calibrated), preset("int4"), Limits(max_kl=1e-3), windows, silent
    )
    assert recipe.overrides == (Override(match=COSTLY, bits=8),)
    assert calibrated.prequantized(f"{COSTLY}.weight") is not None
    assert promoted.weights.prequantized(f"{COSTLY}.weight") is None
    torch.testing.assert_close(promoted.weights.read(f"{COSTLY}.weight"), source.weights.read(f"{COSTLY}.weight"))


def test_invalid_limits_and_too_little_data_are_refused(source: ModelSource, windows: np.ndarray) -> None:
    with pytest.raises(RequestError, match="a limit needs 2 windows"):
        promote_layers(source, preset("int4"), Limits(max_kl=1), windows[:1], silent)
    for limits in ((0.0, None), (None, -1.0), (float("nan"), None)):
        with pytest.raises(RequestError, match="must be above 0"):
            Limits(*limits)


def test_all_experts_of_a_layer_are_promoted_together(tmp_path: Path, windows: np.ndarray) -> None:
    save_checkpoint(tmp_path / "model", "qwen3_moe", num_hidden_layers=2)
    source = resolve(str(tmp_path / "model"))
    promoted, recipe = promote_layers(source, preset("int4"), Limits(max_kl=0.02), windows, silent)
    names = [override.match for override in recipe.overrides]
    stacks = [f"model.layers.{layer}.mlp.experts.{name}_proj" for layer in range(2) for name in ("gate_up", "down")]
    assert set(stacks) & set(names)
    assert len(set(names)) == len(names)
    assert f"{len(names)} of 12 layers are promoted" in promoted.notes[-1]
    plan = plan_quantization(load_model(source), recipe, promoted.weights.prequantized)
    bits = {layer.module: layer.scheme.bits for layer in plan.layers if layer.experts}
    assert bits == {name: 8 if name in names else 4 for name in stacks}
