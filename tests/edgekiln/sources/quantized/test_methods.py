"""Quantized Hugging Face checkpoints keep their codes: compared with the tensors, with transformers, with engines."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.numpy import load_file, save_file

from edgekiln.calib.calibrate import calibrate
from edgekiln.calib.presets import preset
from edgekiln.calib.quantization_plan import plan_quantization
from edgekiln.calib.recipe import LayerSpec, Override, Recipe
from edgekiln.errors import EdgekilnError, UnsupportedModelError
from edgekiln.export.passes.ort.decoder_layers import InlineDecoderLayers
from edgekiln.export.tracing.meta_model import build_meta_model
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.sources.resolve import resolve
from support.formats import FORMATS, Format, change_config, gptq, quantize, write_quantized
from support.parity import Logits, all_logits, check

# The embedding and the head are floats in these checkpoints. They are not quantized, which could hide an error.
_FLOATS = tuple(Override(match=name, skip=True) for name in ("lm_head", "model.embed_tokens"))
RECIPES = {
    "int4": Recipe(default=LayerSpec(bits=4, group_size=32, symmetric=False), overrides=_FLOATS),
    "int8": Recipe(default=LayerSpec(bits=8, activation="int8-per-token"), overrides=_FLOATS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_codes_are_kept(tmp_path: Path, name: str) -> None:
    form = FORMATS[name]
    weights = write_quantized(tmp_path, form)
    source = resolve(str(tmp_path))
    assert source.notes == ()
    assert set(weights) < set(source.weights.keys())
    for layer, expected in weights.items():
        prequantized = source.weights.prequantized(layer)
        assert prequantized is not None
        for one in (prequantized, *prequantized.others):
            assert one.scheme.bits == form.bits
            result = one.read()
            assert result.scheme == one.scheme
            # Only the rounding error of float32: nothing was quantized again.
            np.testing.assert_allclose(result.dequantize(), expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(source.weights.read(layer), torch.from_numpy(prequantized.read().dequantize()))
    assert source.weights.prequantized("lm_head.weight") is None


@pytest.fixture(
    scope="module",
    params=["gptq act-order", "awq", "packed symmetric", "int8 weights and activations", "nf4 twice", "llm.int8"],
)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Format, Logits]:
    """A format, and the logits of an engine that was built from a checkpoint in this format."""
    form = FORMATS[request.param]
    directory = tmp_path_factory.mktemp("quantized")
    write_quantized(directory / "model", form)
    return form, all_logits(resolve(str(directory / "model")), directory, RECIPES[form.quant])


def test_engine_has_the_codes_of_the_checkpoint(built: tuple[Format, Logits], kernels: KernelsChoice) -> None:
    form, logits = built
    linear = [layer for layer in logits.graph.quantization.layers if "_proj" in layer.names[0]]
    assert all(layer.prequantized for layer in linear)
    weight_only = form.quant == "int4"
    assert {layer.scheme.activation for layer in linear} == {"none" if weight_only else "int8-per-token"}
    check(logits, kernels, weight_only)
    # Layers with a common input are merged in all formats. With act-order they have the same permutation, because
    # their Hessians are equal.
    graph = ir.load(logits.directory / "generate.onnx")
    InlineDecoderLayers()(graph)
    matmuls = [node for node in graph.graph if node.op_type in ("MatMulNBits", "MatMulBnb4", "PerTokenInt8MatMul")]
    fused = [node for node in graph.graph if node.op_type.endswith("PostAttention")]
    assert len(matmuls) + 4 * len(fused) == 2 * 4


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gptq symmetric", {"bits": 3}, "quantized with gptq and bits 3, which cannot be read yet"),
        ("gptq symmetric", {"checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ("awq", {"version": "gemv"}, "version 'gemv'"),
        ("awq", {"zero_point": False}, "zero_point False"),
        ("awq", {"quant_method": "quip"}, "quantized with quip, which cannot be read yet"),
        ("nf4", {"bnb_4bit_quant_type": "fp4"}, "weights of type fp4 cannot be carried"),
        ("nf4", {"bnb_4bit_quant_storage": "bfloat16"}, "bnb_4bit_quant_storage 'bfloat16'"),
        ("packed symmetric", {"format": "marlin-24"}, "the format marlin-24 of compressed"),
        ("packed symmetric", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "the sparsity format sparse-24"),
        ("packed symmetric", {"transform_config": {"config_groups": {"R1": {}}}}, "transforms of the activations"),
        ("packed symmetric", {"quantization_status": "frozen"}, "quantization_status 'frozen'"),
        (
            "packed symmetric",
            {"config_groups": {"g": {"weights": {"num_bits": 6, "type": "float"}}}},
            "6-bit weights of type float",
        ),
    ],
)
def test_a_variant_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, changes: dict[str, object], message: str
) -> None:
    write_quantized(tmp_path, FORMATS[name])
    change_config(tmp_path, **changes)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        resolve(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_calibration_does_not_change_layers_that_keep_their_codes(tmp_path: Path) -> None:
    weights = write_quantized(tmp_path / "int8", FORMATS["int8 weights and activations"])
    windows = np.random.default_rng(0).integers(0, 256, (2, 16))
    source, _ = calibrate(resolve(str(tmp_path / "int8")), preset("int8"), windows, lambda step, done: None)
    layers = plan_quantization(build_meta_model(source.config), preset("int8"), source.weights.prequantized).layers
    linear = [layer for layer in layers if layer.names[0] in weights]
    assert len(linear) == len(weights)
    for layer in linear:
        assert layer.prequantized is not None
        np.testing.assert_allclose(layer.prequantized.read().dequantize(), weights[layer.names[0]], rtol=1e-6)
    # Weight-only codes cannot be used there: these layers go through SmoothQuant and are quantized from floats.
    write_quantized(tmp_path / "other", FORMATS["gptq symmetric"])
    source, _ = calibrate(resolve(str(tmp_path / "other")), preset("int8"), windows, lambda step, done: None)
    assert source.weights.prequantized(f"{LAYER}.weight") is None


LAYER = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("name", "part", "value", "message"),
    [
        ("gptq symmetric", "qzeros", None, f"{LAYER} is damaged: it has no qzeros"),
        ("gptq act-order", "g_idx", np.arange(64, dtype=np.int32) // 63, "not all of 32 columns"),
        ("gptq symmetric", "qzeros", np.zeros((2, 16), np.float32), "float32, not int32"),
        ("gptq symmetric", "scales", np.full((2, 128), np.nan, np.float16), "scales with 256 values that are NaN"),
        ("gptq symmetric", "qweight", np.zeros(8, np.int32), r"the shape \[8\], not that of a matrix"),
        ("gptq symmetric", "qzeros", np.zeros((2, 12), np.int32), "quantized to 3 bits, which cannot be read yet"),
        ("gptq symmetric", "scales", np.ones((3, 128), np.float16), "do not fit each other"),
        ("awq", "scales", None, f"no {LAYER}.scales"),
        ("awq", "qzeros", np.zeros((1, 1), np.int32), "do not fit each other"),
        ("packed symmetric", "weight_shape", None, "no weight_scale or no weight_shape"),
        ("packed symmetric", "weight_shape", np.array([128, 63]), "do not fit each other"),
        ("packed symmetric", "weight_shape", np.array([128, 64, 1]), "not 2"),
        ("packed symmetric", "weight_scale", np.ones(3, np.float32), "do not fit each other"),
        ("packed asymmetric", "weight_zero_point", np.zeros((15, 2), np.int32), "do not fit each other"),
        ("int8 weights", "weight", None, "a weight_scale and no weight"),
        ("int8 weights", "weight", np.zeros((128, 64), np.float32), "float32, not int8"),
        ("nf4", "weight.quant_state.bitsandbytes__nf4", np.frombuffer(b"{}", np.uint8), "not that of an NF4 weight"),
        ("nf4", "weight.absmax", None, "do not fit each other"),
        ("nf4", "weight.quant_map", np.linspace(-1, 1, 16, dtype=np.float32), "not NF4's"),
        ("llm.int8", "SCB", np.ones(3, np.float32), "do not fit each other"),
        ("llm.int8", "weight_format", np.array(2, np.uint8), "laid out for a GPU"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, part: str, value: np.ndarray | None, message: str) -> None:
    write_quantized(tmp_path, FORMATS[name])
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors[f"{LAYER}.{part}"]
    if value is not None:
        tensors[f"{LAYER}.{part}"] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(EdgekilnError, match=message):
        resolve(str(tmp_path)).weights.read(f"{LAYER}.weight")


def test_groups_that_engines_lack_are_refused(tmp_path: Path) -> None:
    form = FORMATS["gptq symmetric"]
    sixteen = Format({**form.config, "group_size": 16}, lambda w: (gptq(quantize(w, 4, 16, True)), w), 4)
    write_quantized(tmp_path, sixteen)
    with pytest.raises(UnsupportedModelError, match="in groups of 16, engines have groups of 32 and multiples"):
        resolve(str(tmp_path))


def test_groups_of_16_are_kept_with_8_bits(tmp_path: Path) -> None:
    form = FORMATS["gptq symmetric"]
    config = {**form.config, "bits": 8, "group_size": 16}
    write_quantized(tmp_path, Format(config, lambda w: (gptq(quantize(w, 8, 16, True)), w), 8))
    found = resolve(str(tmp_path)).weights.prequantized(f"{LAYER}.weight")
    assert found is not None
    assert found.scheme.group_size == 16


def test_integers_without_a_configuration_are_refused(tmp_path: Path) -> None:
    write_quantized(tmp_path, FORMATS["int8 weights"])
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="I8, which cannot be read yet"):
        resolve(str(tmp_path))
