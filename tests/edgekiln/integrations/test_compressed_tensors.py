"""Checkpoints in the compressed-tensors format, loaded by transformers and the compressed-tensors library."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import quants
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from edgekiln import runtimes
from edgekiln.calib.data.options import DataOptions
from edgekiln.calib.evaluation.hf_reference import load_model, model_scorer
from edgekiln.calib.evaluation.perplexity import perplexity
from edgekiln.calib.formats.fake_quant import fake_quantize_static
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.recipe import LayerSpec, Override, Recipe
from edgekiln.engine.directory import QUANTIZATION_FILE
from edgekiln.engine.reports import QuantizationReport, read_quantization
from edgekiln.errors import EngineError, UnsupportedModelError
from edgekiln.integrations import compressed_tensors
from edgekiln.integrations.compressed_tensors import save_compressed_tensors
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from support.gguf_files import llama_tensors
from support.gguf_files import write as write_gguf
from support.models import save_checkpoint

INT8 = LayerSpec(bits=8, activation="int8-per-token")
INT4 = LayerSpec(bits=4, group_size=32, symmetric=False)
SPECS = {
    "int8": INT8,
    "int4": INT4,
    "int4-sym-64": LayerSpec(bits=4, group_size=64),
    "8-bit groups": LayerSpec(bits=8, group_size=32, symmetric=False),
}
# transformers 5.24 refuses packed zero points: it makes room for unpacked ones. That of llm-compressor loads them.
PACKED_ZEROS = pytest.mark.llm_compressor
ASYMMETRIC = [name for name, spec in SPECS.items() if not spec.symmetric]
TOKENS = np.random.default_rng(0).integers(0, 256, 400)


def silent(_step: str, _done: float) -> None:
    pass


def write(model: Path, output: Path, recipe: Recipe) -> compressed_tensors.Checkpoint:
    return save_compressed_tensors(resolve(str(model)), output, BuildOptions(recipe=recipe), silent)


def loaded(directory: Path) -> torch.nn.Module:
    """The model as transformers loads it, with unpacked weights."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model(torch.zeros(1, 1, dtype=torch.long))  # the library unpacks weights at the first call
    return model


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=PACKED_ZEROS if name in ASYMMETRIC else []) for name in SPECS]
)
def test_transformers_loads_the_quantized_weights(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    spec, output = SPECS[name], tmp_path / "out"
    checkpoint = write(tiny_checkpoint, output, Recipe(default=spec))
    assert checkpoint.size == sum(path.stat().st_size for path in output.iterdir())
    scheme = Scheme(spec.bits, spec.group_size, spec.symmetric, spec.activation)
    model = loaded(output)
    original = resolve(str(tiny_checkpoint)).weights
    linear = 0
    for key, value in model.named_parameters():
        if key not in original:
            continue  # scales and zero points
        weight = original.read(key)
        if "_proj" in key:
            linear += 1
            expected = torch.from_numpy(quantize(weight, scheme).dequantize())
        else:
            expected = weight.float()
        torch.testing.assert_close(value.data, expected, rtol=1e-6, atol=1e-7)
    assert linear == 4 * 7
    report = read_quantization(output)
    assert {layer.bits for layer in report.layers.values()} == {spec.bits}
    assert len(report.layers) == linear


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8", pytest.param("int4", marks=PACKED_ZEROS)])
def test_perplexity_is_that_of_the_engine(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    # The checkpoint keeps the embedding and the head in floating point, which an engine would quantize.
    floats = tuple(Override(match=name, skip=True) for name in ("lm_head", "model.embed_tokens"))
    recipe = Recipe(default=SPECS[name], overrides=floats)
    checkpoint = tmp_path / "checkpoint"
    write(tiny_checkpoint, checkpoint, recipe)
    theirs = perplexity(model_scorer(loaded(checkpoint)), TOKENS, 100).perplexity
    for source in (tiny_checkpoint, checkpoint):
        engine = tmp_path / f"engine of {source.name}"
        build_engine(resolve(str(source)), engine, BuildOptions(recipe=recipe))
        ours = perplexity(runtimes.open(engine).score, TOKENS, 100).perplexity
        assert np.log(ours) == pytest.approx(np.log(theirs), abs=0.01)
    errors = {name: layer.relative_error for name, layer in read_quantization(engine).layers.items() if "_proj" in name}
    assert set(errors.values()) == {0.0}, "an engine built from the checkpoint keeps its codes"


def test_transformers_uses_the_static_activation_scales(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """transformers' forward quantizes layer inputs with the static scales of the checkpoint."""
    recipe = Recipe(default=LayerSpec(bits=8, activation="int8-static"))
    text = tmp_path / "text.txt"
    text.write_text("a kiln is an oven for bricks. " * 40)
    options = BuildOptions(recipe=recipe, data=DataOptions(str(text), samples=4, length=32))
    save_compressed_tensors(resolve(str(tiny_checkpoint)), tmp_path / "out", options, silent)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    (group,) = config["config_groups"].values()
    inputs = group["input_activations"]
    assert (inputs["strategy"], inputs["dynamic"], inputs["num_bits"]) == ("tensor", False, 8)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    layers = read_quantization(tmp_path / "out").layers
    for name, layer in layers.items():
        assert tensors[f"{name}.input_scale"].item() == pytest.approx(layer.input_scale)
    theirs = loaded(tmp_path / "out")
    ours = load_model(resolve(str(tmp_path / "out")))
    with torch.no_grad():
        exact = ours(torch.from_numpy(TOKENS[None, :100])).logits
    for name, layer in layers.items():
        quantize_input = partial(fake_quantize_static, scale=layer.input_scale)
        ours.get_submodule(name).register_forward_pre_hook(lambda _, x, q=quantize_input: (q(x[0]),))
    with torch.no_grad():
        expected, result = (model(torch.from_numpy(TOKENS[None, :100])).logits for model in (ours, theirs))
    difference = float((result - expected).norm())
    assert difference < 0.3 * float((expected - exact).norm()), "far smaller than the effect of the static scales"
    kept = resolve(str(tmp_path / "out")).weights.prequantized("model.layers.0.mlp.up_proj.weight")
    assert kept is not None
    form = kept.matching(Scheme(8, None, True, "int8-static"))
    assert form is not None
    assert form.read().input_scale == pytest.approx(layers["model.layers.0.mlp.up_proj"].input_scale)


@PACKED_ZEROS
def test_several_schemes_target_layers_by_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    overrides = (
        Override(match="*.down_proj", group_size="channel"),
        Override(match="*.layers.0.self_attn.q_proj", bits=8),
        Override(match="*.layers.1.*", skip=True),
    )
    checkpoint = write(tiny_checkpoint, tmp_path / "out", Recipe(default=INT4, overrides=overrides))
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    groups = {
        (group["format"], group["weights"]["num_bits"]): group["targets"] for group in config["config_groups"].values()
    }
    assert groups["int-quantized", 8] == [f"model.layers.{i}.mlp.down_proj" for i in (0, 2, 3)]
    assert groups["pack-quantized", 8] == ["model.layers.0.self_attn.q_proj"]
    assert config["format"] == "mixed-precision"
    assert "lm_head" in config["ignore"]
    assert sum(name.startswith("model.layers.1.") for name in config["ignore"]) == 7
    skipped, mixed = checkpoint.notes
    assert skipped.startswith("25% of the parameters stay in floating point: ")
    assert mixed == (
        "model.layers.0.self_attn.q_proj/k_proj/v_proj have different schemes, so that vLLM cannot fuse them: "
        "give them one scheme in a recipe"
    )
    parameters = dict(loaded(tmp_path / "out").named_parameters())
    original = resolve(str(tiny_checkpoint)).weights
    for name, scheme in (
        ("model.layers.2.mlp.down_proj", Scheme(8, None, True, "int8-per-token")),
        ("model.layers.0.self_attn.q_proj", Scheme(8, 32, False, "none")),
        ("model.layers.2.mlp.up_proj", Scheme(4, 32, False, "none")),
    ):
        expected = quantize(original.read(f"{name}.weight"), scheme).dequantize()
        torch.testing.assert_close(parameters[f"{name}.weight"].data, torch.from_numpy(expected), rtol=1e-6, atol=1e-7)
    kept = "model.layers.1.mlp.up_proj.weight"
    torch.testing.assert_close(parameters[kept].data, original.read(kept).float())


def test_tokenizer_and_generation_config_are_those_of_the_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    write(tiny_checkpoint, tmp_path / "out", Recipe(default=INT4))
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (tmp_path / "out", tiny_checkpoint))
    assert ours("A kiln is").input_ids == theirs("A kiln is").input_ids
    chat = [{"role": "user", "content": "Hi"}]
    assert ours.apply_chat_template(chat, tokenize=False) == theirs.apply_chat_template(chat, tokenize=False)
    assert (ours.bos_token, ours.eos_token, ours.pad_token) == (theirs.bos_token, theirs.eos_token, theirs.pad_token)
    generation = GenerationConfig.from_pretrained(tmp_path / "out")
    assert generation.eos_token_id == list(resolve(str(tiny_checkpoint)).special_tokens.eos)
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in (tmp_path / "out").iterdir())


def test_named_templates_and_special_tokens_are_kept(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    path = model / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"extra_special_tokens": {"image_token": "<|user|>"}}
    settings.pop("pad_token")
    path.write_text(json.dumps(settings))
    (model / "chat_template.jinja").write_text("{{ image_token }}{{ eos_token }}{{ pad_token }}")
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "rag.jinja").write_text("rag")
    write(model, tmp_path / "out", Recipe(default=INT4))
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (tmp_path / "out", model))
    assert ours.chat_template == theirs.chat_template
    assert ours.special_tokens_map == theirs.special_tokens_map
    chat = [{"role": "user", "content": "Hi"}]
    assert ours.apply_chat_template(chat, tokenize=False) == theirs.apply_chat_template(chat, tokenize=False)


@PACKED_ZEROS
def test_large_checkpoints_are_split(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tiny_checkpoint, tmp_path / "whole", Recipe(default=INT4))
    monkeypatch.setattr(compressed_tensors, "_SHARD_BYTES", 50_000)
    write(tiny_checkpoint, tmp_path / "split", Recipe(default=INT4))
    index = json.loads((tmp_path / "split" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == sorted(path.name for path in (tmp_path / "split").glob("*.safetensors"))
    assert len(files) > 2
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    for name, file in index["weight_map"].items():
        torch.testing.assert_close(load_file(tmp_path / "split" / file)[name], whole[name])
    models = (loaded(tmp_path / name).parameters() for name in ("split", "whole"))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*models, strict=True))


@PACKED_ZEROS
def test_a_tied_head_is_written_once(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "llama", tie_word_embeddings=True, num_hidden_layers=1)
    write(tmp_path / "model", tmp_path / "out", Recipe(default=INT4))
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    model = loaded(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight


@PACKED_ZEROS
def test_weights_with_unsupported_schemes_are_quantized_again(tmp_path: Path) -> None:
    tensors = {
        name: (quants.quantize(value, Kind.Q4_1), Kind.Q4_1) if value.ndim == 2 else value
        for name, value in llama_tensors()[1].items()
    }
    path = write_gguf(tmp_path / "model.gguf", "llama", tensors)
    checkpoint = write(path, tmp_path / "out", Recipe(default=INT4))
    assert any("have a scheme that compressed-tensors does not support" in note for note in checkpoint.notes)
    source = resolve(str(path))
    parameters = dict(loaded(tmp_path / "out").named_parameters())
    name = "model.layers.0.mlp.up_proj.weight"
    expected = quantize(load_model(source).get_parameter(name), Scheme(4, 32, False, "none")).dequantize()
    torch.testing.assert_close(parameters[name].data, torch.from_numpy(expected), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "recipe", "message"),
    [
        (
            lambda path: save_checkpoint(path, "mixtral"),
            Recipe(default=INT4),
            "as MoE models do, which `edgekiln quantize` does not support",
        ),
        (lambda path: save_checkpoint(path, "gpt2"), Recipe(default=INT4), "nothing to quantize in model"),
        (lambda path: save_checkpoint(path, "llama"), Recipe(default=None), "nothing to quantize in model"),
    ],
    ids=["MoE", "no linear layers", "none"],
)
def test_models_that_cannot_be_saved_are_refused(
    tmp_path: Path, make: Callable[[Path], object], recipe: Recipe, message: str
) -> None:
    make(tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match=message):
        write(tmp_path / "model", tmp_path / "out", recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_only_checkpoints_of_edgekiln_are_replaced(tiny_checkpoint: Path, tiny_engine: Path, tmp_path: Path) -> None:
    write(tiny_checkpoint, tmp_path / "out", Recipe(default=INT4))
    write(tiny_checkpoint, tmp_path / "out", Recipe(default=INT8))
    assert {layer.bits for layer in read_quantization(tmp_path / "out").layers.values()} == {8}
    for precious in (tiny_checkpoint, tiny_engine):
        before = sorted(precious.iterdir())
        with pytest.raises(EngineError, match="exists and is not a checkpoint of `edgekiln quantize`"):
            write(tiny_checkpoint, precious, Recipe(default=INT4))
        assert sorted(precious.iterdir()) == before


def test_the_checkpoint_holds_quantization_json(tiny_checkpoint: Path, tmp_path: Path) -> None:
    write(tiny_checkpoint, tmp_path / "out", Recipe(default=INT4))
    raw = json.loads((tmp_path / "out" / QUANTIZATION_FILE).read_text())
    report = QuantizationReport.model_validate(raw)
    assert all(0 < layer.relative_error < 0.02 for layer in report.layers.values())
