"""Architectures beyond those that transformers itself reads from GGUF: logits survive the way through a file.

`support.gguf_conversion` writes the tensors as llama.cpp's converter does; the metadata here is what it writes as well.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from edgekiln.errors import UnsupportedModelError
from edgekiln.sources.resolve import resolve
from support.gguf_cases import CASES, HEADS, HIDDEN, LAYER, LAYERS, METADATA
from support.gguf_conversion import converted
from support.gguf_files import write_tensors
from support.gguf_models import random_model

MATRIX, BLOCK = 2, 32


def write_model(
    path: Path,
    architecture: str,
    model: PreTrainedModel,
    metadata: dict[str, Any],
    kind: gguf.GGMLQuantizationType | None = None,
    **more: np.ndarray,
) -> Path:
    """Write a model as a file, with matrices in the format `kind`, and with `more` tensors."""
    tied = set(model.all_tied_weights_keys)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name not in tied}
    tensors = []
    for name, tensor in {**converted(architecture, state, model.config), **more}.items():
        blocks = kind is not None and tensor.ndim == MATRIX and tensor.shape[1] % BLOCK == 0
        tensors.append((name, gguf.quants.quantize(tensor, kind), kind) if blocks else (name, tensor, None))
    write_tensors(path, architecture, {**METADATA, **metadata}, tensors)
    return path


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(1, 25)[None], use_cache=False).logits


@pytest.mark.parametrize("case", CASES)
def test_logits_survive(tmp_path: Path, case: str) -> None:
    architecture, model_type, fields, metadata = CASES[case]
    model = random_model(model_type, fields)
    source = resolve(str(write_model(tmp_path / "m.gguf", architecture, model, metadata)))
    assert source.config.model_type == model_type
    read = AutoModelForCausalLM.from_config(source.config, attn_implementation="eager").eval()
    names = set(source.weights.keys())
    read.load_state_dict({name: source.weights.read(name) for name in names}, strict=False)
    assert set(read.state_dict()) - names <= set(read.all_tied_weights_keys)
    expected = logits_of(model)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits_of(read), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "case", ["mixtral", "gptneox", "bloom", "granitehybrid without experts", "granitemoeshared", "qwen3next", "qwen35"]
)
def test_codes_are_kept_in_every_layout(tmp_path: Path, case: str) -> None:
    architecture, model_type, fields, metadata = CASES[case]
    model = random_model(model_type, fields)
    kind = gguf.GGMLQuantizationType.Q4_0
    source = resolve(str(write_model(tmp_path / "m.gguf", architecture, model, metadata, kind)))
    kept = again = 0
    for name, module in model.named_modules():
        found = source.weights.prequantized(f"{name}.weight") if isinstance(module, torch.nn.Linear) else None
        if found is None:
            continue
        expected = source.weights.read(f"{name}.weight").numpy()
        # What is quantized again to 8 bits is noted.
        atol = 1e-6 if found.note is None else 0.02 * np.abs(expected).max()
        np.testing.assert_allclose(found.read().dequantize(), expected, rtol=0, atol=atol)
        kept, again = kept + (found.note is None), again + (found.note is not None)
    assert kept >= LAYERS
    # Columns of Qwen3.5's output projections.
    assert (again > 0) == (case == "qwen35")


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    architecture, model_type, fields, metadata = CASES["glm4moe"]
    model = random_model(model_type, fields)
    keys = {**metadata, "block_count": LAYERS + 1, "nextn_predict_layers": 1}
    more = {f"blk.{LAYERS}.nextn.eh_proj.weight": np.zeros((HIDDEN, 2 * HIDDEN), np.float32)}
    source = resolve(str(write_model(tmp_path / "m.gguf", architecture, model, keys, **more)))
    assert source.config.num_hidden_layers == LAYERS
    assert set(source.weights.keys()) == set(model.state_dict())


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("minicpm", {"logit_scale": None}, "logit_scale = None .a file of MiniCPM's first converter"),
        ("mamba2", {"ssm.group_count": 2}, "ssm.group_count = 2 .*normalizes all groups"),
        ("mamba", {"ssm.dt_b_c_rms": True}, "ssm.dt_b_c_rms = True"),
        ("baichuan", {"attention.max_alibi_bias": 8.0}, "max_alibi_bias = 8.0"),
        ("granite", {"rope.scaling.finetuned": False}, "rope.scaling.finetuned = False"),
        ("mpt", {"attention.max_alibi_bias": 0.0}, "MPT of transformers has ALiBi"),
        ("bloom", {"feed_forward_length": 96}, "feed_forward_length = 96"),
        ("lfm2", {"attention.head_count_kv": [0, 1, 0, 2]}, "it differs between layers with attention"),
        ("olmo", {LAYER: 1e-6}, "OLMo of transformers has 1e-05"),
        ("dots1", {"expert_gating_func": 1}, "sigmoid"),
        ("starcoder", {"attention.head_count_kv": HEADS}, "StarCoder without multi-query attention"),
    ],
)
def test_what_a_row_cannot_express_is_refused(tmp_path: Path, case: str, changes: dict[str, Any], message: str) -> None:
    architecture, model_type, fields, metadata = CASES[case]
    path = write_model(tmp_path / "m.gguf", architecture, random_model(model_type, fields), {**metadata, **changes})
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        resolve(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"sliding_window": 0}, {"sliding_window_pattern": 2}])
def test_windows_of_llama4_other_than_those_that_llama_cpp_fixes_are_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    architecture, model_type, fields, metadata = CASES["llama4"]
    keys = {f"attention.{name}": value for name, value in changes.items()}
    path = write_model(tmp_path / "m.gguf", architecture, random_model(model_type, fields), {**metadata, **keys})
    with pytest.raises(UnsupportedModelError, match=rf"llama4\.attention\.{next(iter(changes))} ="):
        resolve(str(path))
