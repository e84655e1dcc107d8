"""The text decoders of checkpoints with images or audio: names as published, ties, quantization, what is not read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.integrations.compressed_tensors import save_compressed_tensors
from edgekiln.pipeline.options import BuildOptions
from edgekiln.progress import no_progress
from edgekiln.sources.resolve import resolve
from support.formats import FORMATS, quantize_layers
from support.models import save_checkpoint
from support.multimodal import COMPOSITES, REFUSED, save_composite, tiny_composite

IDS = torch.arange(5, 25)[None]
# Names of a saved checkpoint -> the names of checkpoints that were published.
PUBLISHED: dict[str, tuple[str, dict[str, str]]] = {
    "llava of transformers 4": (
        "llava",
        {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head.", "model.": ""},
    ),
    "llava of transformers 5": ("llava", {}),
    "mistral3": (
        "mistral3",
        {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head.", "model.": ""},
    ),
    "qwen2_5_vl": ("qwen2_5_vl", {"model.language_model.": "model.", "model.visual.": "visual."}),
    "qwen2_5_vl saved again": ("qwen2_5_vl", {}),
    "qwen3_vl": ("qwen3_vl", {}),
    "qwen2_audio": (
        "qwen2_audio",
        {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head.", "model.": ""},
    ),
    "smolvlm": ("smolvlm", {}),
    "aya_vision": (
        "aya_vision",
        {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head.", "model.": ""},
    ),
}


def build(directory: Path, model_type: str, text: dict[str, Any] | None = None, **fields: Any) -> Any:
    row_text, row_fields = COMPOSITES[model_type]
    model = tiny_composite(model_type, {**row_text, **(text or {})}, **{**row_fields, **fields})
    save_composite(directory, model)
    return model


def write_tensors(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def own_names(model: Any, rename: dict[str, str]) -> dict[str, torch.Tensor]:
    """The model's tensors under their names in the model, with the first prefix in `rename` that fits replaced."""
    tied = set(model.all_tied_weights_keys)
    result = {}
    for name, tensor in model.state_dict().items():
        old = next((old for old in rename if name.startswith(old)), "")
        if name not in tied:
            result[rename.get(old, "") + name.removeprefix(old)] = tensor.clone()
    return result


def check_logits(model: Any, directory: Path) -> Any:
    """Check that the source's weights give the logits of the whole model, and return the source."""
    source = resolve(str(directory))
    with torch.no_grad():
        expected, found = (each(input_ids=IDS, use_cache=False).logits for each in (model, load_model(source)))
    assert torch.linalg.norm(found - expected) < 1e-5 * torch.linalg.norm(expected)
    return source


@pytest.mark.parametrize("case", PUBLISHED)
def test_names_as_published(tmp_path: Path, case: str) -> None:
    model_type, rename = PUBLISHED[case]
    model = build(tmp_path, model_type)
    write_tensors(tmp_path, own_names(model, rename))
    source = check_logits(model, tmp_path)
    assert all(name.startswith(("model.", "lm_head.")) for name in source.weights.keys())  # noqa: SIM118 - not a mapping


@pytest.mark.parametrize(
    ("model_type", "what"), [("qwen2_5_vl", "images"), ("voxtral", "audio"), ("gemma4_unified", "images and audio")]
)
def test_note_says_what_the_engine_does_not_take(tmp_path: Path, model_type: str, what: str) -> None:
    model = build(tmp_path, model_type)
    assert resolve(str(tmp_path)).notes == (
        f"only the text decoder of {type(model).__name__} is used: the engine takes no {what}",
    )


def damage_towers(directory: Path) -> None:
    """Make every value of the towers' tensors NaN, which reading them refuses."""
    tensors = load_file(directory / "model.safetensors")
    text = ("language_model", "lm_head", "text_model", "model.layers", "model.embed_tokens", "model.norm")
    towers = [name for name in tensors if not any(part in name for part in text)]
    assert towers
    for name in towers:
        tensors[name] = torch.full_like(tensors[name], float("nan"))
    write_tensors(directory, tensors)


def drop_towers(directory: Path) -> None:
    damage_towers(directory)
    tensors = load_file(directory / "model.safetensors")
    write_tensors(directory, {name: tensor for name, tensor in tensors.items() if not tensor.isnan().any()})


def integer_towers(directory: Path) -> None:
    damage_towers(directory)
    tensors = load_file(directory / "model.safetensors")
    write_tensors(
        directory,
        {name: tensor.to(torch.int8) if tensor.isnan().any() else tensor for name, tensor in tensors.items()},
    )


@pytest.mark.parametrize("model_type", ["smolvlm", "qwen2_5_vl", "qwen2_audio"])
@pytest.mark.parametrize("damage", [damage_towers, drop_towers, integer_towers])
def test_towers_are_not_read(tmp_path: Path, model_type: str, damage: Callable[[Path], None]) -> None:
    model = build(tmp_path, model_type)
    damage(tmp_path)
    check_logits(model, tmp_path)


def test_missing_tensor_of_the_decoder_is_named(tmp_path: Path) -> None:
    build(tmp_path, "qwen2_5_vl")
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
    del tensors[name]
    write_tensors(tmp_path, tensors)
    with pytest.raises(SourceError, match=r"lacks model\.language_model\.layers\.1\.mlp\.up_proj\.weight"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("model_type", REFUSED)
def test_decoders_that_need_more_than_earlier_text_are_refused(tmp_path: Path, model_type: str) -> None:
    text, fields, message = REFUSED[model_type]
    save_composite(tmp_path, tiny_composite(model_type, text, **fields))
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        resolve(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", ["smolvlm", "qwen2_5_vl"])
def test_tie_of_the_whole_configuration(tmp_path: Path, model_type: str) -> None:
    model = build(tmp_path, model_type, tie_word_embeddings=True)
    source = check_logits(model, tmp_path)
    assert source.config.tie_word_embeddings is True
    assert "lm_head.weight" not in source.weights.keys()  # noqa: SIM118 - not a mapping


@pytest.mark.parametrize("model_type", ["smolvlm", "qwen2_5_vl"])
def test_tie_of_the_text_configuration_counts_where_there_is_no_head(tmp_path: Path, model_type: str) -> None:
    model = build(tmp_path, model_type, {"tie_word_embeddings": True}, tie_word_embeddings=False)
    check_logits(model, tmp_path)  # the head is there, and another matrix
    tensors = load_file(tmp_path / "model.safetensors")
    write_tensors(tmp_path, {name: tensor for name, tensor in tensors.items() if "lm_head" not in name})
    model.lm_head.weight = model.get_input_embeddings().weight
    assert check_logits(model, tmp_path).config.tie_word_embeddings is True


def test_values_of_the_text_configuration_are_used(tmp_path: Path) -> None:
    build(tmp_path, "qwen2_5_vl", {"max_position_embeddings": 96})
    config = resolve(str(tmp_path)).config
    assert (config.model_type, config.vocab_size, config.max_position_embeddings) == ("qwen2_5_vl_text", 320, 96)


def test_end_tokens_of_the_text_configuration(tmp_path: Path) -> None:
    build(tmp_path, "qwen2_5_vl")
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    raw["text_config"]["eos_token_id"] = [257, 259]
    path.write_text(json.dumps({**raw, "eos_token_id": None}))
    assert resolve(str(tmp_path)).special_tokens.eos == [257, 259]


@pytest.mark.parametrize("part", ["", "text_config"])
def test_quantized_decoder_keeps_its_codes(tmp_path: Path, part: str) -> None:
    build(tmp_path, "qwen2_5_vl")
    form = FORMATS["gptq symmetric"]
    weights = quantize_layers(tmp_path, form, "self_attn.o_proj.weight")
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    (raw[part] if part else raw)["quantization_config"] = form.config
    path.write_text(json.dumps(raw))
    source = resolve(str(tmp_path))
    kept = {name.split("layers.")[1]: name for name in source.weights.keys() if "layers" in name}  # noqa: SIM118
    assert weights
    for name, expected in weights.items():
        prequantized = source.weights.prequantized(kept[name.split("layers.")[1]])
        assert prequantized is not None
        np.testing.assert_allclose(prequantized.read().dequantize(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("transposed", [True, False], ids=["as published", "saved again"])
def test_experts_are_read_one_by_one(tmp_path: Path, transposed: bool) -> None:
    # transformers tells the two by their shapes.
    model = build(tmp_path, "qwen3_vl_moe", {"moe_intermediate_size": 48})
    expected = {name: value for name, value in model.state_dict().items() if ".experts." in name}
    tensors = load_file(tmp_path / "model.safetensors")
    for name, value in expected.items():
        tensors[name] = value.swapaxes(1, 2).contiguous() if transposed else value
    write_tensors(tmp_path, tensors)
    weights = resolve(str(tmp_path)).weights
    assert expected
    for name, value in expected.items():
        own = name.replace("model.language_model.", "model.")
        assert weights.prequantized(own) is None
        assert torch.equal(weights.read(own), value)
        for index, expert in enumerate(value):
            assert torch.equal(weights.read_expert(own, index), expert)


def test_experts_that_are_shared_out_to_several_stacks(tmp_path: Path) -> None:
    # Experts of text and of images are one list in checkpoints, so that no expert is made by itself.
    model = build(tmp_path, "ernie4_5_vl_moe")
    weights = resolve(str(tmp_path)).weights
    expected = {name: value for name, value in model.state_dict().items() if "text_moe.experts." in name}
    assert expected
    for name, value in expected.items():
        own = name.replace("model.language_model.", "model.")
        assert torch.equal(weights.read(own), value)
        assert weights.prequantized(own) is None
        for index, expert in enumerate(value):
            assert torch.equal(weights.read_expert(own, index), expert)


def test_more_experts_than_the_configuration_has_are_an_error(tmp_path: Path) -> None:
    build(tmp_path, "qwen3_vl_moe")
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("experts.gate_up_proj"))
    write_tensors(tmp_path, {**tensors, name: torch.cat([tensors[name], tensors[name][:1]]).contiguous()})
    with pytest.raises(SourceError, match=r"gate_up_proj of shape \[5, .*, its configuration asks for 4 experts"):
        resolve(str(tmp_path))


def test_checkpoint_for_vllm_is_refused_where_there_is_no_class(tmp_path: Path) -> None:
    build(tmp_path / "model", "qwen2_5_vl")
    source = resolve(str(tmp_path / "model"))
    with pytest.raises(UnsupportedModelError, match="for which transformers and vLLM have no class"):
        save_compressed_tensors(source, tmp_path / "out", BuildOptions(), no_progress)


def test_logits_are_scaled_as_in_the_whole_model(tmp_path: Path) -> None:
    # GraniteForCausalLM divides them, GraniteSpeechForConditionalGeneration does not.
    source = check_logits(build(tmp_path / "scaled", "granite_speech"), tmp_path / "scaled")
    assert source.model_class is not None
    source = check_logits(build(tmp_path / "plain", "granite_speech", {"logits_scaling": 1.0}), tmp_path / "plain")
    assert source.model_class is None


def test_a_causal_model_with_images_is_noted(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "git")
    source = resolve(str(tmp_path / "model"))
    assert source.notes[0] == "only the text decoder of GitForCausalLM is used: the engine takes no images"
