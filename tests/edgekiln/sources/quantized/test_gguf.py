"""Unpacked ggml blocks, compared with the gguf package's dequantization."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.sources.quantized.gguf import FORMATS, prequantized_gguf
from edgekiln.sources.quantized.gguf_codebooks import CODEBOOK_FORMATS
from edgekiln.sources.quantized.gguf_multiples import MULTIPLES

N, K = 6, 512
EIGHT_BITS = (Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.Q5_K, Kind.Q2_K, Kind.Q6_K)


def random_blocks(kind: Kind) -> np.ndarray:
    """Random blocks, uint8 [N, bytes per row], with finite float16 scales and mins."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(kind.value)
    raw = rng.integers(0, 256, (N, K // block, size), dtype=np.uint8)
    halves = rng.standard_normal((N, K // block, 2)).astype("<f2").view(np.uint8)
    if kind == Kind.MXFP4:
        raw[..., 0] = rng.integers(0, 250, raw.shape[:2])  # the exponent; 2^123 is the largest that does not overflow
    elif kind in (Kind.Q3_K, Kind.TQ1_0, Kind.TQ2_0, Kind.Q6_K):
        raw[..., -2:] = halves[..., :2]
    elif kind == Kind.Q2_K:
        raw[..., -4:] = halves
    elif kind == Kind.NVFP4:
        raw[..., :4] &= 0x7F  # scales are positive
        raw[..., :4][raw[..., :4] == 0x7F] = 1  # NaN
    elif kind == Kind.IQ1_M:
        raw[..., -1] &= 0xBF  # the upper exponent bit of the scale
    else:
        raw[..., :2] = halves[..., :2]
    if kind in FORMATS and FORMATS[kind].has_min and kind != Kind.Q2_K:
        raw[..., 2:4] = halves[..., 2:]
    return raw.reshape(N, -1)


def kept(kind: Kind) -> tuple[QuantizedWeight, np.ndarray]:
    """The kept weight of random blocks, and its values by the gguf package."""
    raw = random_blocks(kind)
    expected = dequantize(raw, kind)
    prequantized = prequantized_gguf(kind, lambda: raw, lambda: pytest.fail("read as float"))
    assert prequantized is not None
    assert prequantized.note is None
    weight = prequantized.read()
    assert weight.scheme == prequantized.scheme
    return weight, expected


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_codes_are_kept(kind: Kind) -> None:
    weight, expected = kept(kind)
    assert weight.scheme.bits == (8 if kind in EIGHT_BITS else 4)
    assert (weight.group_bias is not None) == weight.scheme.group_bias
    # The rounding error of float32 sums of terms of this size.
    size = np.abs(weight.scales).max() * 256 + (0 if weight.group_bias is None else np.abs(weight.group_bias).max())
    np.testing.assert_allclose(weight.dequantize(), expected, rtol=0, atol=float(size) * 2**-23)


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q6_K, Kind.IQ3_S, Kind.IQ4_XS], ids=lambda kind: kind.name)
def test_weights_are_converted_a_part_of_the_rows_at_a_time(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = kept(kind)
    for part in ("gguf.PART", "gguf_multiples.PART", "gguf_codebooks._PART"):
        monkeypatch.setattr(f"edgekiln.sources.quantized.{part}", 4 * K)
    parts, _ = kept(kind)
    np.testing.assert_array_equal(parts.dequantize(), whole.dequantize())


@pytest.mark.parametrize(("kind", "group"), [(Kind.Q2_K, 16), (Kind.Q6_K, 16), (Kind.Q8_0, 32)])
def test_some_formats_are_kept_bit_for_bit(kind: Kind, group: int) -> None:
    weight, expected = kept(kind)
    assert weight.scheme.group_size == group
    np.testing.assert_array_equal(weight.dequantize(), expected)


@pytest.mark.parametrize("kind", CODEBOOK_FORMATS, ids=lambda kind: kind.name)
def test_codes_of_codebooks_are_kept_bit_for_bit(kind: Kind) -> None:
    weight, expected = kept(kind)
    assert weight.scheme.codebook == ("e2m1" if kind == Kind.MXFP4 else "iq4_nl")
    assert (weight.scheme.bits, weight.scheme.group_size) == (4, 32)
    assert weight.codes.max() == 15
    np.testing.assert_array_equal(weight.dequantize(), expected)


@pytest.mark.parametrize("kind", CODEBOOK_FORMATS, ids=lambda kind: kind.name)
def test_codebooks_have_a_form_of_8_bits(kind: Kind) -> None:
    raw = random_blocks(kind)
    weight = prequantized_gguf(kind, lambda: raw, lambda: pytest.fail("read as float"))
    assert weight is not None
    (form,) = weight.others
    assert (form.scheme.bits, form.scheme.group_size, form.scheme.codebook) == (8, 32, None)
    found = form.read()
    assert found.scheme == form.scheme
    np.testing.assert_array_equal(found.dequantize(), dequantize(raw, kind))


@pytest.mark.parametrize("kind", MULTIPLES, ids=lambda kind: kind.name)
def test_multiples_of_a_step_are_kept_bit_for_bit(kind: Kind) -> None:
    weight, expected = kept(kind)
    assert weight.codes.max() < 1 << weight.scheme.bits
    np.testing.assert_array_equal(weight.dequantize(), expected)


@pytest.mark.parametrize("kind", [Kind.Q6_K, Kind.NVFP4, Kind.IQ1_M, Kind.Q2_K], ids=lambda kind: kind.name)
def test_codes_of_up_to_six_bits_are_near_the_middle(kind: Kind) -> None:
    # Kernels pack 8-bit codes of groups of 16 within 32 of the middle as 6 bits.
    weight, _ = kept(kind)
    assert weight.codes.min() >= 96
    assert weight.codes.max() < 160


def test_the_largest_multiple_of_q3_k_is_kept() -> None:
    # All group scales -32 and all codes -4: weights of 128 steps, one more than signed 8 bits hold.
    raw = np.zeros((1, 110), np.uint8)
    raw[:, -2:] = np.ones(1, "<f2").view(np.uint8)
    prequantized = prequantized_gguf(Kind.Q3_K, lambda: raw, lambda: pytest.fail("read as float"))
    assert prequantized is not None
    assert (prequantized.read().dequantize() == 128).all()


@pytest.mark.parametrize("kind", [Kind.MXFP4, Kind.IQ4_NL, Kind.Q3_K], ids=lambda kind: kind.name)
def test_weights_that_are_not_finite_are_seen_in_the_scales(kind: Kind) -> None:
    raw = random_blocks(kind)
    if kind == Kind.MXFP4:
        raw[0, :2] = (254, 0xFF)  # -6 times 2^127
    else:
        infinity = np.array([np.inf], "<f2").view(np.uint8)
        raw[0, :2] = infinity
        raw[0, 108:110] = infinity
    prequantized = prequantized_gguf(kind, lambda: raw, lambda: pytest.fail("read as float"))
    assert prequantized is not None
    scales = prequantized.read().scales
    assert np.isnan(scales[0, 0])
    assert np.isfinite(scales[1:]).all()


def test_formats_without_a_counterpart_are_quantized_to_8_bits_and_noted() -> None:
    weight = np.random.default_rng(0).standard_normal((N, K), dtype=np.float32)
    prequantized = prequantized_gguf(Kind.Q8_1, lambda: pytest.fail("read as blocks"), lambda: weight)
    assert prequantized is not None
    assert prequantized.note is not None
    assert "Q8_1" in prequantized.note
    result = prequantized.read()
    assert result.scheme == prequantized.scheme
    assert np.linalg.norm(result.dequantize() - weight) < 0.01 * np.linalg.norm(weight)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16])
def test_float_tensors_are_not_prequantized(kind: Kind) -> None:
    assert prequantized_gguf(kind, lambda: pytest.fail("read"), lambda: pytest.fail("read")) is None
