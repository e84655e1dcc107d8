"""Stacked experts of GGUF files keep their codes in every layout and format, and are read one by one."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from transformers import PreTrainedModel

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.sources.quantized.gguf import FORMATS
from edgekiln.sources.quantized.gguf_codebooks import CODEBOOK_FORMATS
from edgekiln.sources.quantized.gguf_multiples import MULTIPLES
from edgekiln.sources.resolve import resolve
from support.gguf_cases import CASES, METADATA
from support.gguf_conversion import converted
from support.gguf_files import LAYERS, write_tensors
from support.gguf_mixture import write_mixture
from support.gguf_models import random_model

STACK, GROUP = 3, 32
MIXTURES = [name for name, (_, _, _, metadata) in CASES.items() if "expert_count" in metadata]
TRANSPOSED = ("gpt-oss", "llama4")


def stacks(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_parameters() if value.dim() == STACK and "conv" not in name}


def write_stacks(path: Path, case: str) -> tuple[PreTrainedModel, dict[str, np.ndarray]]:
    """Write the model of a case with experts in Q8_0, which holds their weights exactly; returns it and these."""
    architecture, model_type, fields, metadata = CASES[case]
    model = random_model(model_type, fields)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for value in stacks(model).values():
            inputs_last = value.swapaxes(1, 2) if case in TRANSPOSED else value
            codes = rng.integers(-127, 128, inputs_last.shape)
            codes[..., ::GROUP] = 127  # so that the scale of a group is a power of two
            inputs_last.copy_(torch.from_numpy(codes) * 2.0**-10)
    tied = set(model.all_tied_weights_keys)
    state = {name: value.numpy() for name, value in model.state_dict().items() if name not in tied}
    tensors = [
        (name, gguf.quants.quantize(value, Kind.Q8_0), Kind.Q8_0) if "_exps.weight" in name else (name, value, None)
        for name, value in converted(architecture, state, model.config).items()
    ]
    assert any(kind for _, _, kind in tensors)
    write_tensors(path, architecture, {**METADATA, **metadata}, tensors)
    return model, {name: value.detach().numpy() for name, value in stacks(model).items()}


@pytest.mark.parametrize("case", MIXTURES)
def test_codes_are_kept_in_every_layout(tmp_path: Path, case: str) -> None:
    _, expected = write_stacks(tmp_path / "m.gguf", case)
    source = resolve(str(tmp_path / "m.gguf"))
    assert not any("quantized" in note or "expert" in note for note in source.notes)
    assert expected
    for name, values in expected.items():
        rows = values.swapaxes(1, 2) if case in TRANSPOSED else values
        kept = source.weights.prequantized(name)
        assert kept is not None, name
        assert kept.note is None
        np.testing.assert_array_equal(kept.read().dequantize(), rows.reshape(-1, rows.shape[2]))
        np.testing.assert_array_equal(source.weights.read(name).numpy(), values)
        for index, expert in enumerate(values):
            np.testing.assert_array_equal(source.weights.read_expert(name, index).numpy(), expert)
            np.testing.assert_array_equal(kept.experts[index].read().dequantize(), rows[index])


@pytest.mark.parametrize("case", MIXTURES)
def test_elements_of_other_tensors_are_read(tmp_path: Path, case: str) -> None:
    model, _ = write_stacks(tmp_path / "m.gguf", case)
    weights = resolve(str(tmp_path / "m.gguf")).weights
    for name in set(weights.keys()) & set(model.state_dict()):
        last = weights.shape(name)[0] - 1
        assert torch.equal(weights.read_expert(name, last), weights.read(name)[last])


def expected_rows(path: Path, layer: int, *parts: str) -> np.ndarray:
    """The rows of parts of each expert, by the gguf package: [E, N, K]."""
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    stored = [found[f"blk.{layer}.ffn_{part}_exps.weight"] for part in parts]
    values = [dequantize(one.data, one.tensor_type).reshape(one.shape[::-1]) for one in stored]
    return np.concatenate(values, axis=1)


def check(kept: PrequantizedWeight | None, expected: np.ndarray) -> None:
    assert kept is not None
    # The rounding error of float32 sums of a bias.
    size = np.abs(expected).max() * 2**-20
    found = kept.read()
    assert found.scheme == kept.scheme
    np.testing.assert_allclose(found.dequantize().reshape(expected.shape), expected, rtol=0, atol=size)
    for expert, values in zip(kept.experts, expected, strict=True):
        np.testing.assert_allclose(expert.read().dequantize(), values, rtol=0, atol=size)


@pytest.mark.parametrize("kind", [*FORMATS, *MULTIPLES, *CODEBOOK_FORMATS], ids=lambda kind: kind.name)
def test_codes_are_kept_in_every_format(tmp_path: Path, kind: Kind) -> None:
    path = write_mixture(tmp_path / "m.gguf", kind, kind, kind)
    weights = resolve(str(path)).weights
    for layer in range(LAYERS):
        for name, parts in {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}.items():
            full = f"model.layers.{layer}.mlp.experts.{name}"
            check(weights.prequantized(full), expected_rows(path, layer, *parts))
            np.testing.assert_array_equal(weights.read(full).numpy(), expected_rows(path, layer, *parts))
    assert weights.prequantized("model.layers.0.self_attn.q_proj.weight") is None


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        (Kind.Q4_K, None),
        (Kind.Q8_0, None),
        (Kind.MXFP4, None),
        (Kind.Q6_K, "Q6_K is kept exactly in 8 bits: 10 bits a weight with its scales, and 6.56 in the file"),
        (Kind.Q5_K, "Q5_K is kept exactly in 8 bits: 10 bits a weight with its scales, and 5.5 in the file"),
    ],
)
def test_formats_that_take_more_bits_are_noted(tmp_path: Path, kind: Kind, note: str | None) -> None:
    path = write_mixture(tmp_path / "m.gguf", kind, kind, kind)
    kept = resolve(str(path)).weights.prequantized("model.layers.0.mlp.experts.gate_up_proj")
    assert kept is not None
    assert kept.note == note


def test_mxfp4_in_8_bits_is_noted(tmp_path: Path) -> None:
    path = write_mixture(tmp_path / "m.gguf", Kind.MXFP4, Kind.MXFP4, Kind.MXFP4)
    kept = resolve(str(path)).weights.prequantized("model.layers.0.mlp.experts.down_proj")
    assert kept is not None
    (other,) = kept.others
    assert other.note == "MXFP4 is kept exactly in 8 bits: 9 bits a weight with its scales, and 4.25 in the file"
    check(other, expected_rows(path, 0, "down"))


def test_gate_and_up_with_different_codebooks_are_kept_in_8_bits(tmp_path: Path) -> None:
    path = write_mixture(tmp_path / "m.gguf", Kind.IQ4_XS, Kind.MXFP4, Kind.IQ4_NL)
    weights = resolve(str(path)).weights
    kept = weights.prequantized("model.layers.1.mlp.experts.gate_up_proj")
    check(kept, expected_rows(path, 1, "gate", "up"))
    assert kept is not None
    assert (kept.scheme.bits, kept.scheme.codebook) == (8, None)
    down = weights.prequantized("model.layers.1.mlp.experts.down_proj")
    assert down is not None
    assert (down.scheme.bits, down.scheme.codebook) == (4, "iq4_nl")


def test_gate_and_up_in_different_formats_are_kept_in_8_bits(tmp_path: Path) -> None:
    path = write_mixture(tmp_path / "m.gguf", Kind.Q4_K, Kind.Q6_K, Kind.Q4_0)
    source = resolve(str(path))
    kept = source.weights.prequantized("model.layers.1.mlp.experts.gate_up_proj")
    check(kept, expected_rows(path, 1, "gate", "up"))
    assert kept is not None
    assert (kept.scheme.bits, kept.scheme.group_size) == (8, 16)
    assert kept.note is not None
    assert kept.note.endswith("weights with parts or experts in 4 and in 8 bits are kept exactly in 8 bits")


def test_a_part_in_floats_is_noted(tmp_path: Path) -> None:
    path = write_mixture(tmp_path / "m.gguf", Kind.F32, Kind.Q6_K, Kind.Q4_0)
    source = resolve(str(path))
    name = "model.layers.1.mlp.experts.gate_up_proj"
    assert source.weights.prequantized(name) is None
    np.testing.assert_array_equal(source.weights.read(name).numpy(), expected_rows(path, 1, "gate", "up"))
    assert source.notes[-1] == (
        f"{LAYERS} quantized weights are dequantized, and quantized again as the preset says: some parts of a layer "
        "are floats in the file, others are quantized"
    )


def test_formats_without_a_counterpart_are_quantized_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_mixture(tmp_path / "m.gguf", Kind.IQ4_XS, Kind.IQ4_XS, Kind.Q4_0)
    monkeypatch.delitem(CODEBOOK_FORMATS, Kind.IQ4_XS)
    kept = resolve(str(path)).weights.prequantized("model.layers.0.mlp.experts.gate_up_proj")
    assert kept is not None
    assert kept.note is not None
    assert kept.note.startswith("IQ4_XS has no counterpart")
    expected = expected_rows(path, 0, "gate", "up")
    found = kept.read()
    assert 0 < found.relative_error < 1e-4
    assert np.linalg.norm(found.dequantize().reshape(expected.shape) - expected) < 0.01 * np.linalg.norm(expected)
