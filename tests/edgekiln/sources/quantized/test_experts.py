"""Experts of quantized checkpoints keep their codes: the weights are those that transformers makes of dequantized ones.

The truth is transformers' own conversion: a checkpoint with the dequantized weights in place of the quantized ones is
loaded by `from_pretrained`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from edgekiln.errors import SourceError
from edgekiln.sources.base import WeightReader
from edgekiln.sources.resolve import resolve
from support.formats import FORMATS, change_config, gptq, quantize, shuffled
from support.models import save_checkpoint
from support.quantized_experts import SIZES, Write, edit, of_format, own_orders, write_experts, write_gpt_oss

# Families with different converters, and what their configurations need.
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {},
    "lfm2_moe": {"num_hidden_layers": 4},
    "nemotron_h": {"layers_block_type": ["mamba", "moe"]},
}


def check_floats(weights: WeightReader, expected: dict[str, np.ndarray], rtol: float = 1e-6) -> None:
    """Check the floats of stacks and of single experts."""
    for name, values in expected.items():
        np.testing.assert_allclose(weights.read(name).numpy(), values, rtol=rtol, atol=1e-7)
        for index, expert in enumerate(values):
            one = weights.read_expert(name, index)
            assert torch.equal(one, weights.read(name)[index])
            assert one.shape == expert.shape


def check_kept(
    weights: WeightReader, expected: dict[str, np.ndarray], bits: int, rtol: float = 1e-6, transposed: bool = False
) -> None:
    """Check that the codes of stacks and of single experts are kept."""
    for name, values in expected.items():
        rows = values.swapaxes(1, 2) if transposed else values
        kept = weights.prequantized(name)
        assert kept is not None
        for one in (kept, *kept.others):
            assert one.scheme.bits == bits or kept.scheme.codebook
            found = one.read()
            assert found.scheme == one.scheme
            np.testing.assert_allclose(found.dequantize(), rows.reshape(-1, rows.shape[2]), rtol=rtol, atol=1e-7)
            assert len(one.experts) == len(rows)
            for expert, wanted in zip(one.experts, rows, strict=True):
                np.testing.assert_allclose(expert.read().dequantize(), wanted, rtol=rtol, atol=1e-7)
    check_floats(weights, expected, rtol)


@pytest.mark.parametrize("name", FORMATS)
def test_codes_of_every_format(tmp_path: Path, name: str) -> None:
    form = FORMATS[name]
    expected = write_experts(tmp_path, "qwen3_moe", form.config, of_format(form))
    source = resolve(str(tmp_path / "quantized"))
    assert source.notes == ()
    assert len(expected) == 4
    check_kept(source.weights, expected, form.bits)
    assert source.weights.prequantized("model.layers.0.self_attn.q_proj.weight") is None


@pytest.mark.parametrize("family", FAMILIES)
def test_codes_in_the_layout_of_every_converter(tmp_path: Path, family: str) -> None:
    form = FORMATS["gptq asymmetric"]
    expected = write_experts(tmp_path, family, form.config, of_format(form), **FAMILIES[family])
    assert expected
    source = resolve(str(tmp_path / "quantized"))
    check_kept(source.weights, expected, 4)


def test_experts_have_their_own_orders_of_columns(tmp_path: Path) -> None:
    expected = write_experts(tmp_path, "qwen3_moe", FORMATS["gptq act-order"].config, own_orders)
    source = resolve(str(tmp_path / "quantized"))
    check_kept(source.weights, expected, 4)
    kept = source.weights.prequantized(next(iter(expected)))
    assert kept is not None
    assert kept.scheme.act_order
    order = kept.read().order
    assert order is not None
    assert (order[0] == np.arange(64)).all()
    assert (order[1] != order[2]).any()


def only(words: Iterable[str], form: Write, other: Write) -> Write:
    """`form` for names with all of the words, `other` for the rest."""
    return lambda name, weight: (form if all(word in name for word in words) else other)(name, weight)


def of_groups(bits: int, group: int, symmetric: bool) -> Write:
    def write(_: str, weight: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        found = quantize(weight, bits, group, symmetric)
        return gptq(found), found.weight

    return write


@pytest.mark.parametrize(
    ("words", "odd", "bits"),
    [
        (["experts.2."], of_groups(8, 64, False), 8),
        (["experts.2."], of_groups(4, 64, True), 4),
        (["up_proj"], of_groups(8, 32, True), 8),
    ],
    ids=["an expert in 8 bits", "an expert in other groups, symmetric", "up projections in 8 bits"],
)
def test_different_schemes_that_one_holds_are_kept(tmp_path: Path, words: list[str], odd: Write, bits: int) -> None:
    write = only(words, odd, of_groups(4, 32, False))
    expected = write_experts(tmp_path, "qwen3_moe", FORMATS["gptq asymmetric"].config, write)
    source = resolve(str(tmp_path / "quantized"))
    found = {name: values for name, values in expected.items() if "gate_up" in name or "up_proj" not in words}
    check_kept(source.weights, found, bits)
    assert (source.weights.prequantized(next(iter(found))).note is None) == (bits == 4)


def plain(_: str, weight: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    return {"weight": weight}, weight


def another_order(name: str, weight: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    groups = shuffled(64, 32)[::-1] if "up_proj" in name else shuffled(64, 32)
    found = quantize(weight, 4, 32, False, np.ascontiguousarray(groups))
    return gptq(found), found.weight


@pytest.mark.parametrize(
    ("form", "write", "message", "kept"),
    [
        (
            "int8 weights",
            only(["experts.1."], of_format(FORMATS["packed symmetric"]), of_format(FORMATS["int8 weights"])),
            "4 quantized weights are dequantized, .*schemes that no other holds exactly",
            None,
        ),
        (
            "gptq asymmetric",
            only(["experts.1."], plain, of_groups(4, 32, False)),
            "4 quantized weights are dequantized, .*only some parts or experts",
            None,
        ),
        (
            "gptq act-order",
            another_order,
            "2 quantized weights are dequantized, .*columns in different orders",
            "down_proj",
        ),
    ],
    ids=["schemes", "floats", "orders"],
)
def test_experts_that_do_not_fit_together_are_noted(
    tmp_path: Path, form: str, write: Write, message: str, kept: str | None
) -> None:
    expected = write_experts(tmp_path, "qwen3_moe", FORMATS[form].config, write)
    source = resolve(str(tmp_path / "quantized"))
    (note,) = source.notes
    assert re.match(message, note)
    check_floats(source.weights, expected)
    found = {name for name in expected if source.weights.prequantized(name) is not None}
    assert found == {name for name in expected if kept and kept in name}


EXPERT = "model.layers.1.mlp.experts.2.up_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if EXPERT in name], "holds 3 tensors .* needs 4"),
        (lambda tensors: tensors.pop(f"{EXPERT}.scales"), f"{EXPERT} is damaged: it has no scales"),
        (
            lambda tensors: tensors.update(
                {
                    f"{EXPERT}.{part}": tensors[f"{EXPERT}.{part}"][
                        :, : tensors[f"{EXPERT}.{part}"].shape[1] // 2
                    ].clone()
                    for part in ("qweight", "qzeros", "scales")
                }
            ),
            rf"{EXPERT}.weight of shape \[32, 64\], and other experts of \[64, 64\]",
        ),
    ],
    ids=["expert", "scales", "rows"],
)
def test_an_expert_that_is_missing_is_named(tmp_path: Path, change: Any, message: str) -> None:
    form = FORMATS["gptq asymmetric"]
    write_experts(tmp_path, "qwen3_moe", form.config, of_format(form))
    edit(tmp_path / "quantized", change)
    with pytest.raises(SourceError, match=message) as caught:
        resolve(str(tmp_path / "quantized"))
    assert "\n" not in str(caught.value)


def test_experts_in_fp8_are_read_one_by_one(tmp_path: Path) -> None:
    def write(_: str, weight: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        scale = torch.from_numpy(np.random.default_rng(weight.size).random((2, 2), np.float32))
        values = (torch.from_numpy(weight) * 100).to(torch.float8_e4m3fn)
        expected = Fp8Dequantize(None)._dequantize_one(values, scale, torch.float32)
        return {"weight": values, "weight_scale_inv": scale}, expected.numpy()

    config = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    expected = write_experts(tmp_path, "qwen3_moe", config, write)
    source = resolve(str(tmp_path / "quantized"))
    assert source.notes == ("engines have no FP8: 24 weights are dequantized, and quantized again as the preset says",)
    assert all(source.weights.prequantized(name) is None for name in expected)
    check_floats(source.weights, expected, rtol=0)


@pytest.mark.parametrize("grid", [(4, 2, 2), (4,), (4, 1, 1), ()], ids=str)
def test_stacked_experts_in_fp8(tmp_path: Path, grid: tuple[int, ...]) -> None:
    save_checkpoint(tmp_path, "qwen3_moe", **SIZES)
    expected = {}

    def change(tensors: dict[str, torch.Tensor]) -> None:
        names = [name for name in tensors if ".experts." in name]
        for stem in {name.split(".experts.")[0] for name in names}:
            for kind, rows in (("gate_up_proj", 128), ("down_proj", 64)):
                name = f"{stem}.experts.{kind}"
                rng = np.random.default_rng([rows, len(expected)])
                values = torch.from_numpy(rng.standard_normal((4, rows, 64), np.float32)).to(torch.float8_e4m3fn)
                scale = torch.from_numpy(np.array(rng.random(grid, np.float32)))
                tensors |= {name: values, f"{name}_scale_inv": scale}
                whole = scale.reshape(-1, *(grid[1:] or (1, 1))).expand(4, -1, -1).numpy()
                blocks = np.repeat(whole, rows // whole.shape[1], 1)
                expected[name] = values.float().numpy() * np.repeat(blocks, 64 // whole.shape[2], 2)
        for name in names:
            del tensors[name]

    edit(tmp_path, change)
    size = [64, 32] if len(grid) == 3 and grid[1] > 1 else None
    change_config(tmp_path, quant_method="fp8", weight_block_size=size)
    check_floats(resolve(str(tmp_path)).weights, expected, rtol=0)


def test_experts_of_gpt_oss_are_kept_exactly(tmp_path: Path) -> None:
    expected = write_gpt_oss(tmp_path)
    source = resolve(str(tmp_path))
    assert source.notes == ()
    check_kept(source.weights, expected, 4, rtol=0, transposed=True)
    kept = source.weights.prequantized(next(iter(expected)))
    assert kept.scheme.codebook == "e2m1"
    assert kept.note is None
    (other,) = kept.others
    assert (other.scheme.bits, other.scheme.codebook) == (8, None)
    assert other.note == "MXFP4 is kept exactly in 8 bits: 9 bits a weight with its scales, and 4.25 in the checkpoint"


@pytest.mark.parametrize("exponent", [255, 254], ids=["NaN", "overflow"])
def test_exponents_that_are_not_finite_are_an_error(tmp_path: Path, exponent: int) -> None:
    save_checkpoint(tmp_path, "gpt_oss", hidden_size=64, intermediate_size=96)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
            experts, k, n = tensors.pop(name).shape
            tensors[f"{name}_blocks"] = torch.full((experts, n, k // 32, 16), 0x77, dtype=torch.uint8)
            tensors[f"{name}_scales"] = torch.full((experts, n, k // 32), exponent, dtype=torch.uint8)

    edit(tmp_path, change)
    change_config(tmp_path, quant_method="mxfp4")
    weights = resolve(str(tmp_path)).weights
    with pytest.raises(SourceError, match="a value is NaN or infinite"):
        weights.read_expert("model.layers.0.mlp.experts.down_proj", 1)
    with pytest.raises(SourceError, match="a value is NaN or infinite"):
        weights.prequantized("model.layers.0.mlp.experts.down_proj").read()


def test_float_experts_are_assembled_as_by_transformers(tmp_path: Path) -> None:
    expected = write_experts(tmp_path, "qwen3_moe", {}, plain)
    weights = resolve(str(tmp_path / "floats")).weights
    assert all(weights.prequantized(name) is None for name in expected)
    for name, values in expected.items():
        assert torch.equal(weights.read(name), torch.from_numpy(values))
    check_floats(weights, expected, rtol=0)


def test_experts_in_different_types_become_the_wider_one(tmp_path: Path) -> None:
    expected = write_experts(tmp_path, "mixtral", {}, plain)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "experts" in name and "experts.2" not in name]:
            tensors[name] = tensors[name].bfloat16()

    edit(tmp_path / "floats", change)
    weights = resolve(str(tmp_path / "floats")).weights
    for name, values in expected.items():
        assert weights.read(name).dtype == torch.float32
        assert torch.equal(weights.read(name)[2], torch.from_numpy(values[2]))
        assert torch.equal(weights.read_expert(name, 1), torch.from_numpy(values[1]).bfloat16())


def test_dense_layers_that_are_split_keep_their_codes(tmp_path: Path) -> None:
    """hrm_text's checkpoints have gate and up projections in one tensor."""
    form = FORMATS["gptq asymmetric"]
    save_checkpoint(tmp_path, "hrm_text")
    expected = {}

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("mlp.gate_up_proj.weight")]:
            parts, values = form.write(tensors.pop(name).numpy())
            stem = name.removesuffix("weight")
            tensors.update({f"{stem}{part}": torch.from_numpy(np.array(one, order="C")) for part, one in parts.items()})
            halves = np.split(values, 2)
            expected.update(
                {name.replace("gate_up", kind): half for kind, half in zip(("gate", "up"), halves, strict=True)}
            )

    edit(tmp_path, change)
    change_config(tmp_path, **form.config)
    weights = resolve(str(tmp_path)).weights
    assert expected
    for name, values in expected.items():
        kept = weights.prequantized(name)
        assert kept is not None
        np.testing.assert_allclose(kept.read().dequantize(), values, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(weights.read(name).numpy(), values, rtol=1e-6, atol=1e-7)
