"""Round-to-nearest quantization in groups and per channel, against numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.errors import SourceError

INT8 = Scheme(8, None, True, "int8-per-token")
SCHEMES = [Scheme(4, 32, False, "none"), Scheme(4, 64, False, "none"), Scheme(8, 32, False, "none"), INT8]
GROUPED = [Scheme(bits, 32, symmetric, "none") for bits in (4, 8) for symmetric in (False, True)]


def expand(quantized: QuantizedWeight) -> np.ndarray:
    """Dequantize in float64, with each element's scale and zero point."""
    columns = quantized.codes.shape[1]
    width = quantized.scheme.group_size or columns
    scales = quantized.scales.astype(np.float64).reshape(len(quantized.codes), -1)
    group = np.arange(columns) // width
    middle = 2.0 ** (quantized.scheme.bits - 1) if quantized.scheme.group_size else 0.0
    zero = middle if quantized.zero_points is None else quantized.zero_points[:, group].astype(np.float64)
    return (quantized.codes.astype(np.float64) - zero) * scales[:, group]


def min_max(weight: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Round to nearest with the scale of the min-max range; with 7 bits if symmetric, which never saturates."""
    blocks = weight.astype(np.float64).reshape(-1, scheme.group_size or weight.shape[1])
    if scheme.symmetric:
        scale = np.abs(blocks).max(1, keepdims=True) / 64
        scale[scale == 0] = 1
        values = np.clip(np.rint(blocks / scale), -64, 64) * scale
    else:
        levels = 2**scheme.bits - 1
        low, high = np.minimum(blocks.min(1, keepdims=True), 0), np.maximum(blocks.max(1, keepdims=True), 0)
        scale = (high - low) / levels
        scale[scale == 0] = 1
        zero = np.rint(-low / scale)
        values = (np.clip(np.rint(blocks / scale) + zero, 0, levels) - zero) * scale
    return values.reshape(weight.shape)


def in_float16(quantized: QuantizedWeight) -> bool:
    with np.errstate(over="ignore"):
        return bool((quantized.scales.astype(np.float16) == quantized.scales).all())


def block_errors(weight: np.ndarray, values: np.ndarray, scheme: Scheme) -> np.ndarray:
    return ((weight.astype(np.float64) - values) ** 2).reshape(-1, scheme.group_size or weight.shape[1]).sum(1)


weights = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.sampled_from([64, 128, 192])),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False) | st.sampled_from([0.0, 1e-20, -3e-25, 7.0]),
    fill=st.just(0.0) | st.just(0.5) | st.just(-2.0),
)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@settings(deadline=None, max_examples=60)
@given(weight=weights)
def test_no_group_is_worse_than_min_max_and_statistics_are_right(scheme: Scheme, weight: np.ndarray) -> None:
    quantized = quantize(torch.from_numpy(weight), scheme)
    assert quantized.codes.shape == weight.shape
    assert quantized.scales.dtype == np.float32
    assert np.isfinite(quantized.scales).all()
    assert (quantized.scales > 0).all()
    if scheme.symmetric:
        assert quantized.codes.dtype == np.int8
        assert quantized.codes.min() >= -127
        assert quantized.zero_points is None
    else:
        assert quantized.codes.dtype == np.uint8
        assert quantized.zero_points is not None
        assert quantized.zero_points.dtype == np.uint8
        assert max(quantized.codes.max(), quantized.zero_points.max()) < 2**scheme.bits
    values = expand(quantized)
    np.testing.assert_allclose(quantized.dequantize(), values, rtol=1e-6)
    energy = block_errors(weight, np.zeros_like(weight), scheme)
    ours, theirs = block_errors(weight, values, scheme), block_errors(weight, min_max(weight, scheme), scheme)
    # Candidates per channel are compared by their errors, those of groups by float32 sums of squares.
    rounding = 1e-7 if scheme.group_size else 1e-11
    if scheme.group_size and in_float16(quantized):
        # With the best float scale s of codes y, s^2 <y, y> is at most the group's sum of squares. A scale within 2^-11
        # of s adds 2^-22 of that, and rounding to the new scale can only lower the error.
        rounding += 2.0**-22
    elif scheme.group_size:
        assert quantized.scales.min() < 2.0**-14 or quantized.scales.max() > 65504
    # 1e-53, since groups with steps below 1e-30 are quantized to zero.
    assert (ours <= theirs * (1 + 1e-4) + energy * rounding + 1e-53).all()
    if energy.sum() > 0:
        assert quantized.relative_error == pytest.approx(ours.sum() / energy.sum(), rel=1e-3, abs=1e-11)


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_int4_comes_close_to_an_exhaustive_search(group_size: int) -> None:
    weight = np.random.default_rng(3).standard_normal((64, 128)).astype(np.float32)
    blocks = weight.astype(np.float64).reshape(-1, group_size)
    best = np.full(len(blocks), np.inf)
    unit = np.maximum(blocks.max(1, keepdims=True), 0) - np.minimum(blocks.min(1, keepdims=True), 0)
    for span in np.linspace(0.5, 1.4, 91):
        scale = unit * span / 15
        for zero in range(16):
            values = (np.clip(np.rint(blocks / scale) + zero, 0, 15) - zero) * scale
            best = np.minimum(best, ((blocks - values) ** 2).sum(1))
    scheme = Scheme(4, group_size, False, "none")
    ours = block_errors(weight, expand(quantize(torch.from_numpy(weight), scheme)), scheme).sum()
    plain = block_errors(weight, min_max(weight, scheme), scheme).sum()
    assert ours <= best.sum() * 1.01
    assert ours <= plain * 0.95


@pytest.mark.parametrize("kept", [np.float16, np.float32])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_dequantized_weight_gets_its_codes_back(bits: int, kept: type[np.floating]) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2**bits, (16, 4, 32))
    codes[..., 0], codes[..., 1] = 0, 2**bits - 1
    zero, scale = rng.integers(1, 2**bits - 1, (16, 4, 1)), rng.uniform(0.01, 0.02, (16, 4, 1)).astype(kept)
    weight = ((codes - zero) * scale.astype(np.float64)).astype(np.float32).reshape(16, 128)
    quantized = quantize(torch.from_numpy(weight), Scheme(bits, 32, False, "none"))
    np.testing.assert_array_equal(quantized.codes.reshape(codes.shape), codes)
    np.testing.assert_array_equal(quantized.scales, scale[..., 0].astype(np.float16))
    np.testing.assert_allclose(quantized.dequantize(), weight, rtol=0 if kept is np.float16 else 2.0**-11)


@pytest.mark.parametrize("scheme", GROUPED, ids=str)
def test_scales_are_float16_and_codes_suit_them(scheme: Scheme) -> None:
    weight = np.random.default_rng(5).standard_normal((256, 1024), dtype=np.float32) * np.float32(0.02)
    weight[2, 32:64], weight[:, 128:160] = 0, 0
    quantized = quantize(torch.from_numpy(weight), scheme)
    assert in_float16(quantized)
    assert not expand(quantized)[weight == 0].any()
    middle = np.full(quantized.scales.shape, 2 ** (scheme.bits - 1), dtype=np.uint8)
    zero = np.repeat(middle if quantized.zero_points is None else quantized.zero_points, 32, axis=1)
    steps = np.rint(weight / np.repeat(quantized.scales, 32, axis=1))
    np.testing.assert_array_equal(quantized.codes, np.clip(steps + zero, 0, 2**scheme.bits - 1))
    # Scaled by a power of two, the weight gets the same codes, but its scales stay float32.
    exact = quantize(torch.from_numpy(weight * np.float32(2.0**-24)), scheme)
    assert not in_float16(exact)
    assert quantized.relative_error <= exact.relative_error * (1 + (1e-4 if scheme.bits == 4 else 2e-3))


@pytest.mark.parametrize("scheme", GROUPED, ids=str)
@pytest.mark.parametrize("factor", [1e-7, 1e8])
@pytest.mark.parametrize("rows", [slice(None), slice(7, 8)], ids=["all", "one row"])
def test_beyond_the_range_of_float16_scales_stay_float32(scheme: Scheme, factor: float, rows: slice) -> None:
    weight = np.random.default_rng(8).standard_normal((64, 256), dtype=np.float32)
    weight[3, 64:96] = 0
    usual = quantize(torch.from_numpy(weight), scheme)
    scaled = weight.copy()
    scaled[rows] *= np.float32(factor)
    quantized = quantize(torch.from_numpy(scaled), scheme)
    with np.errstate(over="ignore"):
        assert (quantized.scales.astype(np.float16) != quantized.scales).mean() > 0.9
    values = expand(quantized)
    assert not values[weight == 0].any()
    values[rows] /= factor
    per_row = Scheme(scheme.bits, None, scheme.symmetric, "none")
    expected = block_errors(weight, expand(usual), per_row)
    np.testing.assert_allclose(block_errors(weight, values, per_row), expected, rtol=0.1)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_zero_rows_stay_zero(scheme: Scheme) -> None:
    quantized = quantize(torch.zeros(2, 64), scheme)
    assert not quantized.dequantize().any()
    assert quantized.relative_error == 0.0


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_rows_are_independent_and_threads_change_nothing(scheme: Scheme) -> None:
    weight = torch.randn(3000, 192, generator=torch.Generator().manual_seed(2))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = quantize(weight, scheme)
        torch.set_num_threads(2)
        together = quantize(weight, scheme)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(alone.codes, together.codes)
    np.testing.assert_array_equal(alone.scales, together.scales)
    assert (alone.relative_error, alone.clipped) == (together.relative_error, together.clipped)
    some = quantize(weight[1500:1510], scheme)
    np.testing.assert_array_equal(some.codes, alone.codes[1500:1510])


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_bfloat16_weights_give_the_codes_of_their_float_values(scheme: Scheme) -> None:
    half = torch.randn(8, 64, generator=torch.Generator().manual_seed(4)).to(torch.bfloat16)
    np.testing.assert_array_equal(quantize(half, scheme).codes, quantize(half.float(), scheme).codes)


def test_clipped_counts_weights_more_than_half_a_step_outside() -> None:
    weight = np.random.default_rng(6).standard_normal((50, 128)).astype(np.float32)
    scheme = Scheme(4, 128, False, "none")
    quantized = quantize(torch.from_numpy(weight), scheme)
    assert quantized.zero_points is not None
    low = (-quantized.zero_points.astype(float) - 0.5) * quantized.scales
    high = (15.5 - quantized.zero_points) * quantized.scales
    assert quantized.clipped == pytest.approx(((weight < low) | (weight > high)).mean())
    assert quantized.clipped > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_damaged_weight_is_refused(value: float) -> None:
    weight = torch.ones(4, 64)
    weight[2, 3] = value
    with pytest.raises(SourceError, match="NaN or infinite"):
        quantize(weight, INT8)


@pytest.mark.parametrize(
    ("shape", "scheme", "said"),
    [
        ((4, 40), Scheme(4, 32, False, "none"), "32 does not divide 40"),
        ((64,), INT8, r"\(64,\)"),
        ((0, 64), INT8, r"\(0, 64\)"),
        ((4, 64), Scheme(4, None, True, "none"), "8 bit only"),
        ((4, 64), Scheme(3, 32, True, "none"), "4 or 8 bit"),
    ],
)
def test_unsupported_schemes_and_shapes_are_refused(shape: tuple[int, ...], scheme: Scheme, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        quantize(torch.ones(shape), scheme)


@pytest.mark.parametrize("bits", [4, 8])
def test_symmetric_groups_have_the_middle_code_as_zero_point(bits: int) -> None:
    weight = np.random.default_rng(bits).standard_normal((8, 96)).astype(np.float32)
    weight[2, 32:64] = 0
    quantized = quantize(torch.from_numpy(weight), Scheme(bits, 32, True, "none"))
    assert quantized.zero_points is None
    assert quantized.codes.dtype == np.uint8
    assert quantized.codes.max() < 2**bits
    middle = 2 ** (bits - 1)
    values = (quantized.codes.astype(np.float64) - middle) * np.repeat(quantized.scales, 32, axis=1)
    np.testing.assert_allclose(quantized.dequantize(), values, rtol=1e-6)
    scale = np.abs(weight).reshape(-1, 32).max(1, keepdims=True) / (middle - 1)
    plain = (np.rint(weight.reshape(-1, 32) / np.where(scale, scale, 1)) * scale).reshape(weight.shape)
    assert ((values - weight) ** 2).sum() < ((plain - weight) ** 2).sum()
    assert quantized.relative_error == pytest.approx(((values - weight) ** 2).sum() / (weight.astype(float) ** 2).sum())
