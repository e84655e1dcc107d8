"""Unsupported models get an error that names the model and the unsupported part."""

from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.tracing.meta_model import build_meta_model
from edgekiln.export.tracing.trace import layer_caches
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from support.models import save_checkpoint, tiny_config

_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": 32}
_LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "num_experts_per_tok": 2,
}
# Model type, config, what the message must say.
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("gpt_oss", {**_EXPERTS, "head_dim": 16}, "gpt_oss uses attention sinks"),
    ("deepseek_v3", _LATENT, r"deepseek_v3 has keys of 24 and values of 16 elements a head \(latent attention\)"),
    ("llama4_text", {**_EXPERTS, "head_dim": 16, "attention_chunk_size": 8}, "llama4_text uses chunked attention"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "gemma3_text overlays its own attention mask"),
    ("bert", {"is_decoder": False}, "bert attends in both directions"),
    ("doge", {}, "doge makes its attention mask by itself"),
]
_PLAIN: list[tuple[str, dict[str, Any], str]] = [
    ("bloom", {"n_head": 4, "n_layer": 2, "hidden_size": 64}, "bloom adds ALiBi position biases"),
    ("mpt", {"d_model": 64, "n_heads": 4, "n_layers": 2}, "mpt adds ALiBi position biases"),
    (
        "falcon",
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
        "falcon adds ALiBi",
    ),
    ("gptj", {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8}, "gptj computes attention by itself and not"),
    ("rwkv", {"hidden_size": 64, "num_hidden_layers": 2}, "rwkv has layers that keep another state"),
    ("t5", {"d_model": 64, "num_heads": 4, "num_layers": 2}, "transformers has no causal language model for 't5'"),
]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        *(pytest.param(tiny_config(name, **options), message, id=name) for name, options, message in CASES),
        *(pytest.param(CONFIG_MAPPING[name](**options), message, id=name) for name, options, message in _PLAIN),
    ],
)
def test_the_unsupported_part_is_named(config: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        layer_caches(build_meta_model(config))
    assert len(str(caught.value).splitlines()) == 1


def test_a_refused_build_leaves_no_files(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "gpt_oss", **_EXPERTS, head_dim=16)
    with pytest.raises(UnsupportedModelError, match="attention sinks"):
        build_engine(resolve(str(tmp_path / "model")), tmp_path / "engine", BuildOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_unsupported_head_size_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "llama", head_dim=12, num_hidden_layers=1)
    with pytest.raises(UnsupportedModelError, match="heads of 12 elements are not a multiple of 8"):
        build_engine(resolve(str(tmp_path / "model")), tmp_path / "engine", BuildOptions(quant="none"))
    assert not (tmp_path / "engine").exists()
