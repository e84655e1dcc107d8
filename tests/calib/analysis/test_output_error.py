"""Output error against its definition, and the sampled inputs of layers."""

import numpy as np
import pytest
import torch

from edgekiln.calib.analysis.output_error import MAX_TOKENS, output_error, sample_inputs
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from support.models import tiny_model


def test_it_is_the_relative_squared_error_of_the_output() -> None:
    weight, inputs = torch.randn(24, 64), torch.randn(50, 64)
    quantized = quantize(weight, Scheme(4, 32, False, "none"))
    exact = inputs.numpy() @ weight.numpy().T
    difference = inputs.numpy() @ quantized.dequantize().T - exact
    assert output_error(inputs, weight, quantized) == pytest.approx((difference**2).sum() / (exact**2).sum(), rel=1e-4)
    assert output_error(inputs, torch.from_numpy(quantized.dequantize()), quantized) < 1e-10
    assert output_error(torch.zeros(3, 64), weight, quantized) == 0


def test_activation_quantization_is_part_of_the_error() -> None:
    weight, inputs = torch.randn(24, 64), torch.randn(50, 64)
    quantized = quantize(weight, Scheme(8, None, True, "int8-per-token"))
    exact = inputs.numpy() @ weight.numpy().T
    steps = np.abs(inputs.numpy()).max(axis=1, keepdims=True) / 127
    rounded = np.round(inputs.numpy() / steps) * steps
    difference = rounded @ quantized.dequantize().T - exact
    assert output_error(inputs, weight, quantized) == pytest.approx((difference**2).sum() / (exact**2).sum(), rel=1e-2)


def test_samples_are_the_inputs_of_the_layers() -> None:
    model = tiny_model("llama", num_hidden_layers=2)
    windows = np.random.default_rng(0).integers(0, 256, (6, 30))
    names = [f"model.layers.{i}.{part}" for i in range(2) for part in ("self_attn.q_proj", "self_attn.k_proj")]
    inputs = sample_inputs(model, [*names, "model.layers.1.mlp.down_proj"], windows)
    assert inputs[names[0]] is inputs[names[1]], "layers that read the same tensor share one sample"
    assert inputs["model.layers.1.mlp.down_proj"].shape == (4 * 30, 128), "fewer tokens than MAX_TOKENS are all kept"
    with torch.no_grad():
        states = model.model(torch.from_numpy(windows[:4]), output_hidden_states=True).hidden_states[1]
        expected = model.model.layers[1].input_layernorm(states).reshape(-1, 64)
    torch.testing.assert_close(inputs[names[2]], expected)
    long = sample_inputs(model, names[:1], np.random.default_rng(0).integers(0, 256, (4, 100)))
    assert long[names[0]].shape == (MAX_TOKENS, 64)
    assert not any(module._forward_pre_hooks for module in model.modules())
