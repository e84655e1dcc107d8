"""SmoothQuant keeps the function of every model family, and lowers the error of int8 activations."""

from typing import Any

import numpy as np
import pytest
import torch

from edgekiln.calib.analysis.activation_stats import collect_stats
from edgekiln.calib.analysis.layer_groups import find_layer_groups, matrix
from edgekiln.calib.expert_linears import add_expert_linears
from edgekiln.calib.quantizers.calibration import linear_layers as model_layers
from edgekiln.calib.quantizers.smoothquant import smooth_group
from support.models import VOCABULARY, tiny_model

# Number of layer groups in a decoder layer that have a predecessor.
PREDECESSORS = {
    "llama": 4,  # both norms, up before down, value before output
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


@pytest.mark.parametrize("family", PREDECESSORS)
def test_a_smoothed_model_gives_the_same_logits(family: str, windows: np.ndarray) -> None:
    model = tiny_model(family, num_hidden_layers=2)
    expected = logits(model, windows)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    groups = find_layer_groups(model, linear_layers(model))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    able = [group for group in groups if group.predecessor]
    assert len(able) == 2 * PREDECESSORS[family]
    for group, channels in zip(able, collect_stats(model, able, windows, lambda _: None), strict=True):
        assert channels is not None
        smooth_group(model, group, channels, 0.7)
    assert not all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(logits(model, windows), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("family", "smoothed"),
    [
        ("mixtral", True),
        ("gpt_oss", True),
        ("deepseek_v3", True),
        ("llama4_text", False),  # weights the inputs of its experts
        pytest.param("dbrx", False, marks=pytest.mark.slow),
        pytest.param("granitemoe", True, marks=pytest.mark.slow),
        pytest.param("jetmoe", False, marks=pytest.mark.slow),
        pytest.param("nemotron_h", False, marks=pytest.mark.slow),
    ],
)
def test_a_smoothed_mixture_gives_the_same_logits(family: str, smoothed: bool, windows: np.ndarray) -> None:
    model = tiny_model(family)
    expected = logits(model, windows)
    experts = add_expert_linears(model)
    able = [group for group in find_layer_groups(model, list(model_layers(model))) if group.predecessor]
    with_router = [group for group in able if group.routers]
    blocks = {each.weight.block for each in experts}
    assert len(with_router) == (len(blocks) if smoothed else 0)
    for group, channels in zip(able, collect_stats(model, able, windows, lambda _: None), strict=True):
        assert channels is not None
        smooth_group(model, group, channels, 0.7)
    torch.testing.assert_close(logits(model, windows), expected, rtol=1e-3, atol=1e-3)


def test_layers_that_read_one_tensor_are_one_group() -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    groups = {group.layers: group.predecessor for group in find_layer_groups(model, linear_layers(model))}
    prefix = "model.layers.0"
    queries = tuple(f"{prefix}.self_attn.{name}_proj" for name in "qkv")
    assert set(groups) == {
        queries,
        (f"{prefix}.self_attn.o_proj",),
        (f"{prefix}.mlp.gate_proj", f"{prefix}.mlp.up_proj"),
        (f"{prefix}.mlp.down_proj",),
    }
    predecessors = {layers[-1].rpartition(".")[2]: found.name for layers, found in groups.items() if found}
    assert predecessors == {
        "v_proj": f"{prefix}.input_layernorm",
        "o_proj": f"{prefix}.self_attn.v_proj",
        "up_proj": f"{prefix}.post_attention_layernorm",
        "down_proj": f"{prefix}.mlp.up_proj",
    }
    output = groups[f"{prefix}.self_attn.o_proj",]
    assert output is not None
    # Two query heads share one value head.
    assert output.channels.tolist() == [*range(16), *range(16), *range(16, 32), *range(16, 32)]


def test_a_group_whose_tensor_another_module_reads_too_has_no_predecessor() -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    names = [name for name in linear_layers(model) if not name.endswith("gate_proj")]
    groups = {group.layers[-1].rpartition(".")[2]: group.predecessor for group in find_layer_groups(model, names)}
    assert groups["up_proj"] is None
    assert groups["down_proj"] is not None


def test_stats_are_those_of_the_layer_input(windows: np.ndarray) -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    (group,) = find_layer_groups(model, ["model.layers.0.mlp.down_proj"])
    inputs: list[torch.Tensor] = []
    handle = model.get_submodule(group.layers[0]).register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    logits(model, windows)
    handle.remove()
    rows = torch.cat(inputs).reshape(-1, 128)
    (channels,) = collect_stats(model, [group], windows, lambda _: None)
    assert channels is not None
    torch.testing.assert_close(channels.rms, rows.square().mean(0).sqrt())
    torch.testing.assert_close(channels.largest, rows.abs().amax(0))
    factors = smooth_group(model, group, channels, 0.7)
    torch.testing.assert_close(factors.rms / factors.largest, channels.rms / channels.largest)


def test_outlier_channels_cost_less(windows: np.ndarray) -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    norm = model.get_submodule("model.layers.0.post_attention_layernorm")
    with torch.no_grad():
        norm.weight[3] *= 300
    name = "model.layers.0.mlp.up_proj"
    (group,) = [group for group in find_layer_groups(model, linear_layers(model)) if name in group.layers]
    (channels,) = collect_stats(model, [group], windows, lambda _: None)
    assert channels is not None

    def error() -> float:
        """Relative squared error of the output when each token of the input is rounded to int8."""
        module = model.get_submodule(name)
        inputs: list[torch.Tensor] = []
        handle = module.register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
        logits(model, windows)
        handle.remove()
        x = torch.cat(inputs).reshape(-1, 64)
        scale = x.abs().amax(1, keepdim=True) / 127
        weight = matrix(module).detach()
        exact = x @ weight.t()
        return float(((x / scale).round() * scale @ weight.t() - exact).square().sum() / exact.square().sum())

    before = error()
    smooth_group(model, group, channels, 0.7)
    assert error() < before / 4
