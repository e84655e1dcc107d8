"""Unpacked ggml blocks, compared with the gguf package's dequantization."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from edgekiln.sources.quantized.gguf import FORMATS, prequantized_gguf

N, K = 6, 512
EIGHT_BITS = (Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.Q5_K)


def random_blocks(kind: Kind) -> np.ndarray:
    """Random blocks, uint8 [N, bytes per row], with finite float16 scales and mins."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(kind.value)
    raw = rng.integers(0, 256, (N, K // block, size), dtype=np.uint8)
    halves = rng.standard_normal((N, K // block, 2)).astype("<f2").view(np.uint8)
    raw[..., :2] = halves[..., :2]
    if FORMATS[kind].has_min:
        raw[..., 2:4] = halves[..., 2:]
    return raw.reshape(N, -1)


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("permuted", [False, True], ids=["in order", "permuted"])
def test_codes_are_kept(kind: Kind, permuted: bool) -> None:
    raw = random_blocks(kind)
    rows = np.random.default_rng(1).permutation(N) if permuted else None
    expected = dequantize(raw, kind)[slice(None) if rows is None else rows]
    prequantized = prequantized_gguf(kind, rows, lambda: raw, lambda: pytest.fail("read as float"))
    assert prequantized is not None
    assert prequantized.note is None
    weight = prequantized.read()
    assert weight.scheme == prequantized.scheme
    assert prequantized.scheme.bits == (8 if kind in EIGHT_BITS else 4)
    assert (weight.group_bias is not None) == prequantized.scheme.group_bias
    # The rounding error of float32 sums of terms of this size.
    size = np.abs(weight.scales).max() * 256 + (0 if weight.group_bias is None else np.abs(weight.group_bias).max())
    np.testing.assert_allclose(weight.dequantize(), expected, rtol=0, atol=float(size) * 2**-23)


def test_formats_without_a_counterpart_are_quantized_to_8_bits_and_noted() -> None:
    weight = np.random.default_rng(0).standard_normal((N, K), dtype=np.float32)
    prequantized = prequantized_gguf(Kind.Q6_K, None, lambda: pytest.fail("read as blocks"), lambda: weight)
    assert prequantized is not None
    assert prequantized.note is not None
    assert "Q6_K" in prequantized.note
    result = prequantized.read()
    assert result.scheme == prequantized.scheme
    assert np.linalg.norm(result.dequantize() - weight) < 0.01 * np.linalg.norm(weight)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16])
def test_float_tensors_are_not_prequantized(kind: Kind) -> None:
    assert prequantized_gguf(kind, None, lambda: pytest.fail("read"), lambda: pytest.fail("read")) is None
