"""Parts and experts in one scheme have exactly the weights that they had."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from edgekiln.calib.formats.codebook import with_8_bit_form
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.sources.quantized.merge import CodesNotKeptError, common_scheme, in_scheme, merge, not_kept, stack

N, K = 6, 128
GRIDS = {
    "symmetric": Scheme(4, 32, True, "none"),
    "asymmetric": Scheme(4, 64, False, "none"),
    "bias": Scheme(4, 32, True, "none", group_bias=True),
    "8 bits": Scheme(8, 128, True, "none"),
    "8 bits, groups of 16": Scheme(8, 16, True, "none", group_bias=True),
    "8 bits, asymmetric": Scheme(8, 32, False, "none"),
    "act-order": Scheme(4, 128, False, "none", act_order=True),
}
CHANNEL = Scheme(8, None, True, "int8-per-token")
NF4 = Scheme(4, 64, True, "none", codebook="nf4")
IQ4_NL, E2M1 = (Scheme(4, 32, True, "none", codebook=codebook) for codebook in ("iq4_nl", "e2m1"))


def weight(scheme: Scheme, seed: int = 0) -> QuantizedWeight:
    rng = np.random.default_rng(seed)
    groups = (N, K // scheme.group_size) if scheme.group_size else (N,)
    top = 1 << scheme.bits
    codes = rng.integers(0, top, (N, K)).astype(np.uint8)
    return QuantizedWeight(
        scheme,
        codes if scheme.group_size else (codes ^ np.uint8(128)).view(np.int8),
        rng.random(groups, dtype=np.float32),
        None if scheme.symmetric else rng.integers(0, top, groups).astype(np.uint8),
        relative_error=0.0,
        clipped=0.0,
        group_bias=rng.standard_normal(groups, dtype=np.float32) if scheme.group_bias else None,
        order=rng.permutation(K) if scheme.act_order else None,
    )


def prequantized(scheme: Scheme, seed: int = 0) -> PrequantizedWeight:
    found = weight(scheme, seed)
    return PrequantizedWeight(scheme, lambda: found, order=found.order)


@pytest.mark.parametrize(("first", "second"), list(combinations(GRIDS, 2)))
def test_two_schemes_have_one_that_holds_both_exactly(first: str, second: str) -> None:
    schemes = GRIDS[first], GRIDS[second]
    if any(one.group_bias for one in schemes) and not all(one.symmetric for one in schemes):
        with pytest.raises(CodesNotKeptError, match="no other holds exactly"):
            common_scheme(schemes)
        return
    common = common_scheme(schemes)
    assert common.bits == max(one.bits for one in schemes)
    for scheme in schemes:
        found = in_scheme(weight(scheme), common)
        assert found.scheme == common
        assert (found.zero_points is None) == common.symmetric
        assert (found.group_bias is not None) == common.group_bias
        assert (found.order is not None) == common.act_order
        np.testing.assert_array_equal(found.dequantize(), weight(scheme).dequantize())


@pytest.mark.parametrize("other", [NF4, CHANNEL, replace(GRIDS["symmetric"], activation="int8-per-token")])
def test_codebooks_channels_and_int8_activations_stay_alone(other: Scheme) -> None:
    assert common_scheme([other, other]) == other
    with pytest.raises(CodesNotKeptError, match="no other holds exactly"):
        common_scheme([GRIDS["symmetric"], other])


@pytest.mark.parametrize("scheme", [*GRIDS.values(), NF4, CHANNEL])
def test_rows_of_parts(scheme: Scheme) -> None:
    # Groups of columns in the same order, as those of projections with a common input.
    first = weight(scheme)
    second = replace(weight(scheme, seed=1), order=first.order)
    parts = [PrequantizedWeight(scheme, lambda one=one: one, order=one.order) for one in (first, second)]
    rows = np.random.default_rng(2).permutation(2 * N)[:9]
    merged = merge(parts, rows)
    expected = np.concatenate([first.dequantize(), second.dequantize()])
    assert merged.scheme == merged.read().scheme == scheme
    assert merged.note is None
    np.testing.assert_array_equal(merged.read().dequantize(), expected[rows])
    np.testing.assert_array_equal(merge(parts, np.arange(2 * N)).read().dequantize(), expected)


def test_parts_with_columns_in_different_orders_are_not_merged() -> None:
    parts = [prequantized(GRIDS["act-order"], seed) for seed in range(2)]
    with pytest.raises(CodesNotKeptError, match="columns in different orders"):
        merge(parts, np.arange(2 * N))


@pytest.mark.parametrize("scheme", [*GRIDS.values(), NF4, CHANNEL])
def test_a_stack_has_each_expert(scheme: Scheme) -> None:
    experts = [prequantized(scheme, seed) for seed in range(3)]
    stacked = stack(experts)
    found = stacked.read()
    assert stacked.scheme == found.scheme == scheme
    assert found.codes.shape == (3 * N, K)
    assert found.order is None or found.order.shape == (3, K)
    expected = [expert.read().dequantize() for expert in experts]
    np.testing.assert_array_equal(found.dequantize(), np.concatenate(expected))
    for expert, values in zip(stacked.experts, expected, strict=True):
        np.testing.assert_array_equal(expert.read().dequantize(), values)


@pytest.mark.parametrize("other", [GRIDS["8 bits"], E2M1, replace(IQ4_NL, group_size=64)], ids=str)
def test_codebooks_beside_other_schemes_are_stacked_in_8_bits(other: Scheme) -> None:
    experts = [with_8_bit_form(prequantized(IQ4_NL)), prequantized(other, seed=1)]
    if other.codebook:
        experts[1] = with_8_bit_form(experts[1])
    stacked = stack(experts)
    assert (stacked.scheme.bits, stacked.scheme.codebook) == (8, None)
    expected = [expert.read().dequantize() for expert in experts]
    np.testing.assert_array_equal(stacked.read().dequantize(), np.concatenate(expected))


def test_a_stack_of_one_codebook_has_both_forms() -> None:
    experts = [with_8_bit_form(prequantized(IQ4_NL, seed)) for seed in range(3)]
    stacked = stack(experts)
    (eight,) = stacked.others
    assert (stacked.scheme, eight.scheme) == (IQ4_NL, Scheme(8, 32, True, "none"))
    expected = np.concatenate([expert.read().dequantize() for expert in experts])
    for form in (stacked, eight):
        np.testing.assert_array_equal(form.read().dequantize(), expected)
        assert len(form.experts) == 3


def test_experts_in_4_and_8_bits_are_stacked_in_8_and_noted() -> None:
    experts = [prequantized(GRIDS[name]) for name in ("symmetric", "8 bits")]
    stacked = stack(experts)
    assert stacked.note == "weights with parts or experts in 4 and in 8 bits are kept exactly in 8 bits"
    assert {expert.scheme for expert in stacked.experts} == {Scheme(8, 32, True, "none")}
    expected = np.concatenate([expert.read().dequantize() for expert in experts])
    np.testing.assert_array_equal(stacked.read().dequantize(), expected)


def test_forms_for_other_activations_are_stacked_except_static_ones() -> None:
    def forms(seed: int) -> PrequantizedWeight:
        static = replace(CHANNEL, activation="int8-static")
        return replace(
            prequantized(CHANNEL, seed), others=(prequantized(GRIDS["8 bits"], seed), PrequantizedWeight(static, None))
        )

    stacked = stack([forms(seed) for seed in range(2)])
    (other,) = stacked.others
    assert other.scheme == GRIDS["8 bits"]
    assert len(other.experts) == 2
    expected = np.concatenate([weight(GRIDS["8 bits"], seed).dequantize() for seed in range(2)])
    np.testing.assert_array_equal(other.read().dequantize(), expected)


def test_notes_count_reasons() -> None:
    assert not_kept(["a", "b", "a"]) == [
        "2 quantized weights are dequantized, and quantized again as the preset says: a",
        "1 quantized weights are dequantized, and quantized again as the preset says: b",
    ]
