"""Engines of mixtures keep the codes of the checkpoint's experts: logits are transformers' with dequantized weights."""

from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from edgekiln.calib.presets import preset
from edgekiln.calib.quantization_plan import plan_quantization
from edgekiln.calib.recipe import LayerSpec, Override, Recipe
from edgekiln.export.tracing.meta_model import build_meta_model
from edgekiln.pipeline.lowering import prequantized_lookup
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from support.formats import FORMATS
from support.gguf_mixture import write_mixture
from support.parity import all_logits, check
from support.quantized_experts import of_format, own_orders, write_experts, write_gpt_oss

# All other weights are floats in these checkpoints. They are not quantized, which could hide an error.
_FLOATS = tuple(Override(match=name, skip=True) for name in ("lm_head", "model.embed_tokens", "*.self_attn.*"))
RECIPES = {
    "int4": Recipe(default=LayerSpec(bits=4, group_size=32, symmetric=False), overrides=_FLOATS),
    "int8": Recipe(default=LayerSpec(bits=8, activation="int8-per-token"), overrides=_FLOATS),
}
GGUF = [
    *((Kind.Q4_K, Kind.Q4_K, Kind.Q6_K), (Kind.Q5_0, Kind.Q5_0, Kind.Q2_K), (Kind.MXFP4, Kind.Q4_0, Kind.IQ4_XS)),
    *((Kind.MXFP4, Kind.MXFP4, Kind.MXFP4), (Kind.IQ4_XS, Kind.IQ4_NL, Kind.Q5_K), (Kind.Q8_0, Kind.Q8_0, Kind.IQ4_XS)),
]


@pytest.mark.parametrize(
    "name", ["gptq act-order", "awq", "packed symmetric", "gptq 8 bit", "int8 weights and activations"]
)
def test_experts_of_checkpoints(tmp_path: Path, name: str) -> None:
    form = FORMATS[name]
    write = own_orders if "order" in name else of_format(form)
    expected = write_experts(tmp_path, "qwen3_moe", form.config, write)
    logits = all_logits(resolve(str(tmp_path / "quantized")), tmp_path, RECIPES[form.quant])
    layers = logits.graph.quantization.layers
    assert [layer.names[0] for layer in layers] == list(expected)
    assert all(layer.prequantized for layer in layers)
    assert {layer.scheme.bits for layer in layers} == {form.bits}
    check(logits, weight_only=form.quant == "int4")


def test_experts_of_gpt_oss(tmp_path: Path) -> None:
    write_gpt_oss(tmp_path / "model")
    logits = all_logits(resolve(str(tmp_path / "model")), tmp_path, RECIPES["int4"])
    layers = logits.graph.quantization.layers
    assert all(layer.prequantized for layer in layers)
    assert {(layer.scheme.bits, layer.scheme.codebook) for layer in layers} == {(4, "e2m1")}
    (skipped,) = logits.graph.quantization.notes
    assert "of the parameters stay in floating point: " in skipped
    check(logits)


def test_targets_without_codebooks_keep_experts_of_gpt_oss_in_8_bits(tmp_path: Path) -> None:
    write_gpt_oss(tmp_path / "model")
    source = resolve(str(tmp_path / "model"))
    lookup = prequantized_lookup(source, BuildOptions(target="ort-cuda", recipe=RECIPES["int4"]))
    plan = plan_quantization(build_meta_model(source.config), RECIPES["int4"], lookup)
    assert all(layer.prequantized for layer in plan.layers)
    assert {(layer.scheme.bits, layer.scheme.codebook) for layer in plan.layers} == {(8, None)}
    assert plan.notes == [
        "MXFP4 is kept exactly in 8 bits: 9 bits a weight with its scales, and 4.25 in the checkpoint "
        f"({len(plan.layers)} weights)"
    ]


@pytest.mark.parametrize("kinds", GGUF, ids=lambda kinds: "-".join(kind.name for kind in kinds))
def test_experts_of_gguf_files(tmp_path: Path, kinds: tuple[Kind, Kind, Kind]) -> None:
    source = resolve(str(write_mixture(tmp_path / "m.gguf", *kinds)))
    logits = all_logits(source, tmp_path, RECIPES["int4"])
    layers = logits.graph.quantization.layers
    assert len(layers) == 4
    assert all(layer.prequantized for layer in layers)
    check(logits)


def test_experts_in_nf4_are_quantized_again_and_noted(tmp_path: Path) -> None:
    form = FORMATS["nf4"]
    write_experts(tmp_path, "qwen3_moe", form.config, of_format(form))
    source = resolve(str(tmp_path / "quantized"))
    plan = plan_quantization(build_meta_model(source.config), RECIPES["int4"], source.weights.prequantized)
    assert plan.notes == ["engines have no nf4 for experts, which are quantized again as the preset says"]
    assert not any(layer.prequantized or layer.scheme.codebook for layer in plan.layers)


def test_static_activations_keep_the_codes_of_experts(tmp_path: Path) -> None:
    form = FORMATS["int8 weights and activations"]
    write_experts(tmp_path, "qwen3_moe", form.config, of_format(form))
    source = resolve(str(tmp_path / "quantized"))
    plan = plan_quantization(build_meta_model(source.config), preset("int8-static"), source.weights.prequantized)
    experts = [layer for layer in plan.layers if layer.experts]
    assert len(experts) == 4
    assert {layer.scheme.activation for layer in experts} == {"int8-per-token"}
    assert all(layer.prequantized and layer.prequantized.scheme == layer.scheme for layer in experts)
