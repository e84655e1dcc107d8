"""Blocks of GGUF files against the gguf package's own dequantization."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from edgekiln.sources.quantized.gguf import FORMATS, stored_gguf

ROWS, COLUMNS = 6, 512
EIGHT_BITS = (Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.Q5_K)


def random_blocks(kind: Kind) -> np.ndarray:
    """Bytes [ROWS, bytes a row] of any codes and scales; no float16 of them infinite or NaN."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(kind.value)
    raw = rng.integers(0, 256, (ROWS, COLUMNS // block, size), dtype=np.uint8)
    halves = rng.standard_normal((ROWS, COLUMNS // block, 2)).astype("<f2").view(np.uint8)
    raw[..., :2] = halves[..., :2]
    if FORMATS[kind].minima:
        raw[..., 2:4] = halves[..., 2:]
    return raw.reshape(ROWS, -1)


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("moved", [False, True], ids=["in order", "moved"])
def test_the_grid_is_kept(kind: Kind, moved: bool) -> None:
    raw = random_blocks(kind)
    rows = np.random.default_rng(1).permutation(ROWS) if moved else None
    expected = dequantize(raw, kind)[slice(None) if rows is None else rows]
    stored = stored_gguf(kind, rows, lambda: raw, lambda: pytest.fail("read as float"))
    assert stored is not None
    assert stored.note is None
    weight = stored.read()
    assert weight.scheme == stored.scheme
    assert stored.scheme.bits == (8 if kind in EIGHT_BITS else 4)
    assert (weight.offsets is not None) == stored.scheme.offsets
    # Rounding of float32 sums of terms of this size, no more.
    size = np.abs(weight.scales).max() * 256 + (0 if weight.offsets is None else np.abs(weight.offsets).max())
    np.testing.assert_allclose(weight.dequantize(), expected, rtol=0, atol=float(size) * 2**-23)


def test_formats_without_a_counterpart_are_quantized_to_8_bits_and_noted() -> None:
    weight = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    stored = stored_gguf(Kind.Q6_K, None, lambda: pytest.fail("read as blocks"), lambda: weight)
    assert stored is not None
    assert stored.note is not None
    assert "Q6_K" in stored.note
    result = stored.read()
    assert result.scheme == stored.scheme
    assert np.linalg.norm(result.dequantize() - weight) < 0.01 * np.linalg.norm(weight)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16])
def test_floating_point_is_not_stored_quantized(kind: Kind) -> None:
    assert stored_gguf(kind, None, lambda: pytest.fail("read"), lambda: pytest.fail("read")) is None
