"""Weights whose 4-bit codes index a codebook of integers, and the same weights in 8 bits."""

from dataclasses import replace

import numpy as np

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import INTEGER_CODEBOOKS, QuantizedWeight

_MIDDLE = 128  # of 8-bit codes


def has_8_bit_form(scheme: Scheme) -> bool:
    """Whether weights in `scheme` are 4-bit codes of a codebook of integers, which are 8-bit codes as well."""
    return scheme.codebook in INTEGER_CODEBOOKS


def with_8_bit_form(weight: PrequantizedWeight, note: str | None = None) -> PrequantizedWeight:
    """A weight with codes of a codebook of integers, with the same weight in 8 bits as its other form.

    Layers that cannot look up codes take that form: embeddings, layers whose parts have different schemes, and those
    of targets without kernels for codebooks.

    Args:
        weight: the weight.
        note: of the other form, see `PrequantizedWeight`.
    """
    scheme = _in_8_bits(weight.scheme)
    return replace(weight, others=(PrequantizedWeight(scheme, lambda: in_8_bits(weight.read()), note),))


def without_codebook(weight: PrequantizedWeight) -> PrequantizedWeight:
    """The 8-bit form of a weight with codes of a codebook of integers; other weights themselves."""
    if not has_8_bit_form(weight.scheme):
        return weight
    forms = [form for form in weight.others if not form.scheme.codebook]
    return replace(forms[0], others=tuple(forms[1:])) if forms else weight


def in_8_bits(weight: QuantizedWeight) -> QuantizedWeight:
    """A weight with codes of a codebook of integers as symmetric 8-bit codes with the same scales: equal values."""
    codebook = weight.scheme.codebook
    assert codebook is not None
    codes = (INTEGER_CODEBOOKS[codebook].astype(np.int16) + _MIDDLE).astype(np.uint8)[weight.codes]
    return replace(weight, scheme=_in_8_bits(weight.scheme), codes=codes)


def _in_8_bits(scheme: Scheme) -> Scheme:
    return replace(scheme, bits=8, codebook=None)
