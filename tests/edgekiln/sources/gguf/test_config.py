"""Metadata of GGUF files: each key is read, has no effect, or is refused; defaults are llama.cpp's."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from transformers import PretrainedConfig

from edgekiln.errors import EdgekilnError, SourceError, UnsupportedModelError
from edgekiln.sources.gguf.config import build_config, parse_config
from edgekiln.sources.gguf.reader import GgufFile
from support.gguf_files import HEAD_DIM, HEADS, HIDDEN, VOCAB, random, write

GEMMA3 = {"attention__key_length": HEAD_DIM, "attention__sliding_window": 8}


def config(
    path: Path, architecture: str = "llama", extra: dict[str, Any] | None = None, **keys: Any
) -> PretrainedConfig:
    tensors = {"token_embd.weight": random(VOCAB, HIDDEN), **(extra or {})}
    file = GgufFile(write(path / "m.gguf", architecture, tensors, **keys))
    return build_config(file, parse_config(file))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {"rope_type": "default", "rope_theta": 10000.0}),
        ({"rope__scaling__factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope__scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope__scale_linear": 4.0, "rope__scaling__factor": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, {"rope_type": "default"}),
        ({"rope__scaling__type": "linear"}, {"rope_type": "default"}),
        ({"rope__scaling__factor": 1.0, "rope__scaling__finetuned": False}, {"rope_type": "default"}),
        ({"rope__freq_base": None}, {"rope_theta": 10000.0}),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__original_context_length": 64},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32.0},
        ),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 2.0, "rope__scaling__yarn_beta_slow": 2.0},
            {"rope_type": "yarn", "original_max_position_embeddings": 128, "beta_slow": 2.0},
        ),
    ],
)
def test_rope_scaling(tmp_path: Path, keys: dict[str, Any], expected: dict[str, Any]) -> None:
    rope = config(tmp_path, **keys).rope_parameters
    assert {key: rope.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"attention__causal": False}, "attention.causal = False"),
        ({"attention__clamp_kqv": 8.0}, "attention.clamp_kqv = 8.0"),
        ({"attention__scale": 0.5}, "attention.scale = 0.5"),
        ({"attention__value_length": 32}, "attention.value_length = 32 .keys have 16"),
        ({"attention__key_length_mla": 32}, "attention.key_length_mla = 32"),
        ({"attention__max_alibi_bias": 8.0}, "attention.max_alibi_bias = 8.0"),
        ({"attention__sliding_window": 16}, "attention.sliding_window = 16"),
        ({"attention__head_count_kv": [2, 4]}, "attention.head_count_kv = .2, 4. .it differs between layers"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
        ({"embedding_scale": 12.0}, "embedding_scale = 12.0"),
        ({"expert_shared_count": 2}, "expert_shared_count = 2"),
        ({"expert_gating_func": 2}, "expert_gating_func = 2"),
        ({"feed_forward_length": [96, 64]}, "feed_forward_length = .96, 64. .it differs between layers"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
        ({"logit_scale": 0.0625}, "logit_scale = 0.0625"),
        ({"nextn_predict_layers": 1}, "nextn_predict_layers = 1"),
        ({"pooling_type": 3}, "pooling_type = 3"),
        ({"residual_scale": 0.5}, "residual_scale = 0.5"),
        ({"rope__dimension_count": 8}, "rope.dimension_count = 8 .heads have 16"),
        ({"rope__dimension_sections": [4, 4, 0, 0]}, "rope.dimension_sections"),
        ({"rope__freq_base_swa": 100.0}, "rope.freq_base_swa = 100.0"),
        ({"rope__scaling__attn_factor": 1.2}, "rope.scaling.attn_factor = 1.2"),
        ({"rope__scaling__type": "longrope", "rope__scaling__factor": 4.0}, "rope.scaling.type = 'longrope'"),
        ({"rope__scaling__type": "yarn"}, "rope.scaling.type = 'yarn' .without rope.scaling.factor"),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__yarn_log_multiplier": 0.1},
            r"rope\.scaling\.yarn_log_multiplier",
        ),
        ({"ssm__state_size": 16}, "ssm.state_size = 16"),
        ({"tensor_data_layout": "other"}, "tensor_data_layout = 'other'"),
        ({"use_parallel_residual": True}, "use_parallel_residual = True"),
        ({"new_key": "x"}, "new_key = 'x'"),
    ],
)
def test_keys_that_change_the_result_are_refused_with_their_value(
    tmp_path: Path, keys: dict[str, Any], found: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=f"llama.{found}"):
        config(tmp_path, **keys)


def test_keys_without_effect_are_read(tmp_path: Path) -> None:
    keys = {
        "attention__causal": True,
        "attention__scale": HEAD_DIM**-0.5,
        "attention__head_count_kv": [2, 2],
        "attention__value_length": HEAD_DIM,
        "expert_count": 0,
        "expert_used_count": 0,
        "logit_scale": 1.0,
        "pooling_type": 0,
        "rope__scaling__finetuned": True,
        "tensor_data_layout": "Meta AI original pth",
        "vocab_size": 5,
    }
    found = config(tmp_path, **keys)
    assert (found.num_key_value_heads, found.vocab_size, found.head_dim) == (2, VOCAB, HEAD_DIM)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"block_count": None}, "lacks llama.block_count"),
        ({"context_length": None}, "lacks llama.context_length"),
        ({"attention__layer_norm_rms_epsilon": None}, "lacks llama.attention.layer_norm_rms_epsilon"),
        ({"attention__layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon is nan, it must be a finite"),
        ({"attention__layer_norm_rms_epsilon": -1.0}, "layer_norm_rms_epsilon is -1.0, it must be positive"),
        ({"rope__freq_base": float("inf")}, "rope.freq_base is inf"),
        ({"rope__freq_base": "10000"}, "rope.freq_base is '10000'"),
        ({"rope__scaling__factor": -4.0}, "rope.scaling.factor is -4.0"),
        ({"rope__scaling__type": 3}, "rope.scaling.type is 3, it must be a text"),
        ({"block_count": 10**9}, "block_count is 1000000000, it must be at most 512"),
        ({"block_count": True}, "block_count is True"),
        ({"attention__head_count": 0}, "head_count is 0"),
        (
            {"attention__head_count_kv": [2, 2, 2]},
            "head_count_kv is '3 values', it must be one for each of the 2 layers",
        ),
        ({"rope__freq_base": [1.5, 1.5]}, r"rope.freq_base is \[1.5, 1.5\], it must be a finite number"),
        ({"rope__freq_base": 1e300}, r"rope.freq_base is 1e\+300, it must be a finite number"),
        ({"attention__head_count_kv": 3}, "head_count_kv is 3, it must be a divisor of the 4 heads"),
        ({"context_length": 2**31}, "context_length is 2147483648"),
        ({"tokenizer_eos_token_id": VOCAB}, f"eos_token_id is {VOCAB}, the model has {VOCAB} tokens"),
    ],
)
def test_impossible_values_are_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        config(tmp_path, **keys)


def test_blocks_are_counted(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="block_count is 2, it must be 4, the blocks that the file holds"):
        config(tmp_path, extra={"blk.3.attn_norm.weight": random(HIDDEN)})


def test_longrope_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"rope_factors_long.weight \(longrope\)"):
        config(tmp_path, "phi3", extra={"rope_factors_long.weight": random(8)})


def test_linear_scaling_of_phi3_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"phi3.rope.scaling.factor = 4.0 .*longrope only"):
        config(tmp_path, "phi3", rope__scaling__factor=4.0)


def test_defaults_are_not_those_of_the_class(tmp_path: Path) -> None:
    # transformers' classes have head sizes of 128 and 256, a window, and other key-value heads.
    keys = {"attention__head_count_kv": None}
    for architecture in ("qwen3", "gemma3"):
        found = config(tmp_path, architecture, **keys)
        assert (found.head_dim, found.num_key_value_heads) == (HIDDEN // HEADS, HEADS), architecture
    assert found.layer_types == ["full_attention"] * 2
    assert found.rope_parameters["full_attention"]["rope_theta"] == 10000.0
    assert (found.bos_token_id, found.pad_token_id) != (2, 0)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [(2, "sf"), (1, "ff"), (0, "ss"), ([True, False], "sf"), ([False, True], "fs"), (None, "ss")],
)
def test_sliding_window_pattern(tmp_path: Path, pattern: Any, expected: str) -> None:
    found = config(tmp_path, "gemma3", **GEMMA3, attention__sliding_window_pattern=pattern)
    assert "".join(kind[0] for kind in found.layer_types) == expected


def test_sliding_window_pattern_of_other_length(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="sliding_window_pattern is '3 values', it must be one for each of the 2"):
        config(tmp_path, "gemma3", **GEMMA3, attention__sliding_window_pattern=[True, False, True])


def test_theta_of_windows(tmp_path: Path) -> None:
    rope = config(tmp_path, "gemma3", **GEMMA3, rope__freq_base_swa=100.0).rope_parameters
    assert rope["sliding_attention"] == {"rope_type": "default", "rope_theta": 100.0}
    with pytest.raises(UnsupportedModelError, match=r"gemma2\.rope\.freq_base_swa"):
        config(tmp_path, "gemma2", attention__key_length=16, rope__freq_base_swa=100.0)


@pytest.mark.parametrize(
    ("architecture", "layers", "hidden", "heads", "head_dim", "expected"),
    [
        # query_pre_attn_scalar of the published configurations.
        ("gemma2", 26, 2304, 8, 256, 256),
        ("gemma2", 42, 3584, 16, 256, 256),
        ("gemma2", 46, 4608, 32, 128, 144),
        ("gemma3", 26, 1152, 4, 256, 256),
        ("gemma3", 48, 3840, 16, 256, 256),
        ("gemma3", 62, 5376, 32, 128, 168),
    ],
)
def test_attention_scale_of_gemma(
    tmp_path: Path, architecture: str, layers: int, hidden: int, heads: int, head_dim: int, expected: int
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", architecture)
    writer.add_context_length(8192)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(64)
    writer.add_head_count(heads)
    writer.add_key_length(head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tensor("token_embd.weight", np.zeros((8, hidden), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "m.gguf")
    assert build_config(file, parse_config(file)).query_pre_attn_scalar == expected


def test_every_error_is_one_sentence(tmp_path: Path) -> None:
    for value in ("x" * 500, [1.5] * 3, -1, 1e300):
        for key in ("block_count", "rope__freq_base", "attention__key_length", "rope__scaling__type", "novelty"):
            with pytest.raises(EdgekilnError) as caught:
                config(tmp_path, **{key: value})
            assert len(str(caught.value)) < 400 + len(str(tmp_path)), key
