"""Factors move from activations into weights: every family computes what it did, and 8 bits lose less."""

from typing import Any

import numpy as np
import pytest
import torch

from edgekiln.calib.analysis.activation_stats import observe
from edgekiln.calib.analysis.layer_groups import find_readers, matrix
from edgekiln.calib.quantizers.smoothquant import smooth
from support.models import VOCABULARY, tiny_model

# How many of the inputs of a layer's linear layers have a producer.
PRODUCERS = {
    "llama": 4,  # both norms, up for down, value for output
    "qwen2": 4,
    "qwen3": 4,
    "gemma2": 4,
    "gemma3_text": 4,
    "olmo2": 2,  # its norms come after the linear layers
    "gpt2": 2,
    "gpt_neox": 2,
    "phi3": 2,  # gate and up are one layer, and so are query, key and value
    "mixtral": 2,
}


def linear_layers(model: Any) -> list[str]:
    head = model.get_output_embeddings()
    kinds = ("Linear", "Conv1D")
    return [name for name, module in model.named_modules() if type(module).__name__ in kinds and module is not head]


def logits(model: Any, windows: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(windows), use_cache=False).logits


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCABULARY, (3, 20))


@pytest.mark.parametrize("family", PRODUCERS)
def test_a_smoothed_model_computes_what_it_did(family: str, windows: np.ndarray) -> None:
    model = tiny_model(family, num_hidden_layers=2)
    expected = logits(model, windows)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    groups = find_readers(model, linear_layers(model))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    able = [group for group in groups if group.producer]
    assert len(able) == 2 * PRODUCERS[family]
    for group, channels in zip(able, observe(model, able, windows, lambda _: None), strict=True):
        assert channels is not None
        smooth(model, group, channels, 0.7)
    assert not all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(logits(model, windows), expected, rtol=1e-3, atol=1e-3)


def test_readers_of_one_tensor_are_one_group() -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    groups = {group.layers: group.producer for group in find_readers(model, linear_layers(model))}
    prefix = "model.layers.0"
    queries = tuple(f"{prefix}.self_attn.{name}_proj" for name in "qkv")
    assert set(groups) == {
        queries,
        (f"{prefix}.self_attn.o_proj",),
        (f"{prefix}.mlp.gate_proj", f"{prefix}.mlp.up_proj"),
        (f"{prefix}.mlp.down_proj",),
    }
    producers = {layers[-1].rpartition(".")[2]: producer.name for layers, producer in groups.items() if producer}
    assert producers == {
        "v_proj": f"{prefix}.input_layernorm",
        "o_proj": f"{prefix}.self_attn.v_proj",
        "up_proj": f"{prefix}.post_attention_layernorm",
        "down_proj": f"{prefix}.mlp.up_proj",
    }
    output = groups[f"{prefix}.self_attn.o_proj",]
    assert output is not None
    # Two heads of queries read one head of values.
    assert output.rows.tolist() == [*range(16), *range(16), *range(16, 32), *range(16, 32)]


def test_a_tensor_that_something_else_reads_too_has_no_producer() -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    names = [name for name in linear_layers(model) if not name.endswith("gate_proj")]
    groups = {group.layers[-1].rpartition(".")[2]: group.producer for group in find_readers(model, names)}
    assert groups["up_proj"] is None
    assert groups["down_proj"] is not None


def test_channels_are_seen_as_they_are(windows: np.ndarray) -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    (group,) = find_readers(model, ["model.layers.0.mlp.down_proj"])
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(group.layers[0]).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    logits(model, windows)
    handle.remove()
    rows = torch.cat(seen).reshape(-1, 128)
    (channels,) = observe(model, [group], windows, lambda _: None)
    assert channels is not None
    torch.testing.assert_close(channels.rms, rows.square().mean(0).sqrt())
    torch.testing.assert_close(channels.largest, rows.abs().amax(0))
    factors = smooth(model, group, channels, 0.7)
    torch.testing.assert_close(factors.rms / factors.largest, channels.rms / channels.largest)


def test_outlier_channels_cost_less(windows: np.ndarray) -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    norm = model.get_submodule("model.layers.0.post_attention_layernorm")
    with torch.no_grad():
        norm.weight[3] *= 300
    name = "model.layers.0.mlp.up_proj"
    (group,) = [group for group in find_readers(model, linear_layers(model)) if name in group.layers]
    (channels,) = observe(model, [group], windows, lambda _: None)
    assert channels is not None

    def error() -> float:
        """Of rounding each row of the input to int8, against the output."""
        module = model.get_submodule(name)
        seen: list[torch.Tensor] = []
        handle = module.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        logits(model, windows)
        handle.remove()
        x = torch.cat(seen).reshape(-1, 64)
        scale = x.abs().amax(1, keepdim=True) / 127
        weight = matrix(module).detach()
        exact = x @ weight.t()
        return float(((x / scale).round() * scale @ weight.t() - exact).square().sum() / exact.square().sum())

    before = error()
    smooth(model, group, channels, 0.7)
    assert error() < before / 4
