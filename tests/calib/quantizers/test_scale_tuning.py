"""Scale tuning lowers the KL divergence, and keeps codes, other weights and the structure of the model."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from edgekiln.calib.analysis.layer_groups import matrix
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.quantizers.scale_tuning import reference_states, tune_scales
from support.models import VOCABULARY, tiny_model

# gpt2's linear layers keep their weights transposed.
LAYERS = {
    "llama": ("model.layers.0.self_attn.o_proj", "model.layers.0.mlp.up_proj", "model.layers.1.mlp.gate_proj"),
    "gpt2": ("transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_fc", "transformer.h.1.attn.c_attn"),
}


def predictions(model: PreTrainedModel, windows: npt.NDArray[np.int64]) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.from_numpy(windows)).logits, -1)


def divergence(expected: torch.Tensor, actual: torch.Tensor) -> float:
    return float(functional.kl_div(actual, expected, reduction="batchmean", log_target=True))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("family", LAYERS)
def test_divergence_falls_and_codes_stay(family: str, symmetric: bool) -> None:
    model = tiny_model(family)
    windows = np.random.default_rng(0).integers(0, VOCABULARY, (64, 16))
    expected = predictions(model, windows)
    reference = reference_states(model, windows)
    before: dict[str, QuantizedWeight] = {}
    exact: dict[str, torch.Tensor] = {}
    for name in LAYERS[family]:
        weight = matrix(model.get_submodule(name))
        exact[name] = weight.detach().clone()
        before[name] = quantize(exact[name], Scheme(4, 32, symmetric, "none"))
        with torch.no_grad():
            weight.copy_(torch.from_numpy(before[name].dequantize()))
    names = {name for name, _ in model.named_parameters()}
    others = {name: value.detach().clone() for name, value in model.named_parameters() if name[:-7] not in before}
    coarse = divergence(expected, predictions(model, windows))
    progress: list[float] = []
    after = tune_scales(model, before, exact, reference, progress.append)
    assert divergence(expected, predictions(model, windows)) < 0.97 * coarse
    assert progress[-1] == 1
    assert {name for name, _ in model.named_parameters()} == names
    for name, value in others.items():
        torch.testing.assert_close(model.get_parameter(name), value, rtol=0, atol=0)
    for name, weight in after.items():
        assert weight.codes is before[name].codes
        assert weight.zero_points is before[name].zero_points
        assert (weight.scales > 0).all()
        np.testing.assert_array_equal(weight.scales, weight.scales.astype(np.float16))
        left = matrix(model.get_submodule(name)).detach().numpy()
        np.testing.assert_array_equal(weight.dequantize(), left)
        difference = left - exact[name].numpy()
        assert weight.relative_error == pytest.approx(
            float((difference**2).sum() / (exact[name].numpy() ** 2).sum()), rel=1e-4
        )


def test_a_layer_that_did_not_run_keeps_its_scales() -> None:
    model = tiny_model("llama")
    windows = np.random.default_rng(0).integers(0, VOCABULARY, (8, 8))
    reference = reference_states(model, windows)
    model.add_module("unused", torch.nn.Linear(64, 32, bias=False))
    exact = {name: matrix(model.get_submodule(name)).detach().clone() for name in ("unused", LAYERS["llama"][0])}
    weights = {name: quantize(weight, Scheme(4, 32, False, "none")) for name, weight in exact.items()}
    tuned = tune_scales(model, weights, exact, reference, lambda _: None)
    np.testing.assert_array_equal(tuned["unused"].scales, weights["unused"].scales)
    assert (tuned[LAYERS["llama"][0]].scales != weights[LAYERS["llama"][0]].scales).any()
