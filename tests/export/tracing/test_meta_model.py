"""Meta models have no weights, and the buffers of a model that is constructed on the CPU."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgekiln.calib.presets import UNCALIBRATED
from edgekiln.calib.quantization_plan import plan_quantization
from edgekiln.export.tracing.meta_model import build_meta_model, called_modules, normalized, takes
from edgekiln.export.tracing.trace import layer_caches
from support.models import FAMILY_NAMES, tiny_config

# Rotary variants with computed frequencies.
_YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "rope_theta": 500000.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILY_NAMES),
    ("llama", {"rope_parameters": _YARN}),
    ("llama", {"rope_parameters": _LLAMA3}),
]


@pytest.mark.parametrize(("family", "options"), CASES)
def test_buffers_equal_those_of_a_constructed_model(family: str, options: dict[str, Any]) -> None:
    model = build_meta_model(tiny_config(family, **options))
    real = AutoModelForCausalLM.from_config(tiny_config(family, **options)).float().eval()
    buffers, expected = dict(model.named_buffers()), dict(real.named_buffers())
    # Adapters keep slopes of ALiBi, and drop masks and tables of modules with an attention of their own.
    kept = {name for name in buffers if not name.endswith("alibi_slopes")}
    assert kept == {name for name in expected if not name.endswith(("attn.bias", "attention.bias", "embed_positions"))}
    for name, buffer in buffers.items():
        assert torch.isfinite(buffer).all(), name
        if name in kept:
            torch.testing.assert_close(buffer, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt2"])
def test_weights_take_no_memory(family: str) -> None:
    model = build_meta_model(tiny_config(family))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


def test_normalized_names_are_the_same_for_every_family() -> None:
    assert normalized(tiny_config("gpt2")).num_layers == normalized(tiny_config("llama")).num_layers == 4
    assert normalized(tiny_config("gpt2")).hidden_size == normalized(tiny_config("smollm3")).hidden_size == 64


def test_takes_reads_the_signature_of_forward() -> None:
    model = build_meta_model(tiny_config("llama"))
    assert takes(model, "logits_to_keep")
    assert not takes(model, "pixel_values")


def test_modules_that_no_forward_calls_are_not_quantized() -> None:
    model = build_meta_model(tiny_config("trocr"))
    assert "model.decoder.layers.0.encoder_attn.q_proj" in dict(model.named_modules())
    with called_modules(model) as called:
        layer_caches(model)
    layers = {layer.module for layer in plan_quantization(model, UNCALIBRATED, called=called).layers}
    assert "model.decoder.layers.0.self_attn.q_proj" in layers
    assert not any("encoder_attn" in layer for layer in layers)
