"""Codes of codebooks of integers, and the same weights in 8 bits."""

from dataclasses import replace

import numpy as np
import pytest

from edgekiln.calib.formats.codebook import has_8_bit_form, in_8_bits, with_8_bit_form, without_codebook
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.scheme import Codebook, Scheme
from edgekiln.calib.formats.weight import CODEBOOKS, INTEGER_CODEBOOKS, QuantizedWeight

N, K, GROUP = 6, 64, 32


def weight(codebook: Codebook) -> QuantizedWeight:
    rng = np.random.default_rng(0)
    scheme = Scheme(4, GROUP, symmetric=True, activation="none", codebook=codebook)
    codes = rng.integers(0, 16, (N, K)).astype(np.uint8)
    scales = rng.standard_normal((N, K // GROUP), dtype=np.float32)
    return QuantizedWeight(scheme, codes, scales, None, relative_error=0.0, clipped=0.0)


def prequantized(codebook: Codebook) -> PrequantizedWeight:
    found = weight(codebook)
    return PrequantizedWeight(found.scheme, lambda: found)


@pytest.mark.parametrize("codebook", INTEGER_CODEBOOKS)
def test_weights_are_scales_times_values_of_the_codebook(codebook: Codebook) -> None:
    found = weight(codebook)
    table = INTEGER_CODEBOOKS[codebook].astype(np.float32)
    expected = table[found.codes] * np.repeat(found.scales, GROUP, axis=1)
    np.testing.assert_array_equal(found.dequantize(), expected)
    eight = in_8_bits(found)
    assert eight.scheme == Scheme(8, GROUP, symmetric=True, activation="none")
    np.testing.assert_array_equal(eight.dequantize(), expected)


@pytest.mark.parametrize("codebook", INTEGER_CODEBOOKS)
def test_the_form_of_8_bits(codebook: Codebook) -> None:
    kept = with_8_bit_form(prequantized(codebook), note="more bits")
    assert (kept.note, has_8_bit_form(kept.scheme)) == (None, True)
    eight = without_codebook(kept)
    assert (eight.note, eight.scheme.bits, eight.scheme.codebook) == ("more bits", 8, None)
    assert eight.read().scheme == eight.scheme
    np.testing.assert_array_equal(eight.read().dequantize(), kept.read().dequantize())
    assert kept.matching(replace(kept.scheme, codebook=None)) is kept


def test_nf4_is_not_of_integers() -> None:
    nf4 = prequantized("nf4")
    assert not has_8_bit_form(nf4.scheme)
    assert without_codebook(nf4) is nf4


def test_the_tables_are_those_of_the_formats() -> None:
    gguf = pytest.importorskip("gguf.quants")
    np.testing.assert_array_equal(CODEBOOKS["iq4_nl"], gguf.IQ4_NL.kvalues)
    np.testing.assert_array_equal(CODEBOOKS["e2m1"], gguf.MXFP4.kvalues)
