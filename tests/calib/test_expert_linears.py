"""Linear layers of experts: the model computes the same, and each expert sees the tokens that the router sent to it."""

import numpy as np
import pytest
import torch

from edgekiln.calib.expert_linears import EACH, add_expert_linears, expert_linears, planned_layer
from edgekiln.calib.moe import expert_weights
from support.models import VOCABULARY, tiny_model

FAMILIES = [
    "qwen3_moe",
    "gpt_oss",  # transposed, with biases
    "llama4_text",  # all experts get all tokens, most of them as zeros
    "dbrx",  # stacked in matrices
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("deepseek_v3", "granitemoe", "jetmoe", "nemotron_h")),
]
IDS = torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (2, 17)))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_linear_layers_compute_all_products_of_experts(family: str) -> None:
    model = tiny_model(family).eval()
    expected = model(input_ids=IDS, use_cache=False).logits
    found = add_expert_linears(model)
    assert [experts.weight for experts in found] == list(expert_weights(model).values())
    torch.testing.assert_close(model(input_ids=IDS, use_cache=False).logits, expected, atol=1e-4, rtol=1e-4)
    before = dict(model.named_parameters())
    for experts in found:
        torch.testing.assert_close(experts.stacked(), before[experts.weight.name], atol=0, rtol=0)
    for experts in found:
        for linear in experts:
            linear.weight = torch.nn.Parameter(torch.zeros_like(linear.weight))
    assert not torch.allclose(model(input_ids=IDS, use_cache=False).logits, expected, atol=1e-2)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "llama4_text"])
@torch.no_grad()
def test_each_expert_sees_the_tokens_that_the_router_sent_to_it(family: str) -> None:
    model = tiny_model(family).eval()
    add_expert_linears(model)
    seen: dict[str, int] = {}
    for name, experts in expert_linears(model).items():
        assert name.endswith(EACH)
        for expert, linear in enumerate(experts):
            assert planned_layer(model, f"{name}.{expert}") == experts.weight.layer
            linear.register_forward_pre_hook(
                lambda _, given, name=name: seen.update({name: seen.get(name, 0) + len(given[0])})
            )
    model(input_ids=IDS, use_cache=False)
    assert seen.keys() == expert_linears(model).keys()
    assert set(seen.values()) == {IDS.numel() * model.config.num_experts_per_tok}


def test_a_model_without_experts_stays_as_it_is() -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    assert add_expert_linears(model) == []
    assert planned_layer(model, "model.layers.0.mlp.up_proj") == "model.layers.0.mlp.up_proj"
