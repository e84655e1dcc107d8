import pytest

from edgekiln.calib.scheme import QuantizationOptions, Scheme, embedding_scheme, linear_scheme
from edgekiln.errors import RequestError, UnsupportedModelError


@pytest.mark.parametrize(
    ("wanted", "width", "used"),
    [(32, 576, 32), (64, 576, 64), (128, 576, 64), (128, 1536, 128), (128, 96, 32), (64, 128, 64)],
)
def test_int4_group_falls_back_to_the_next_smaller_that_divides(wanted: int, width: int, used: int) -> None:
    scheme = linear_scheme(QuantizationOptions("int4", wanted), width)
    assert scheme == Scheme(bits=4, group_size=used, symmetric=False, activation="none")


def test_width_that_no_group_divides_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match="100 wide"):
        linear_scheme(QuantizationOptions("int4"), 100)
    with pytest.raises(UnsupportedModelError, match="100 wide"):
        embedding_scheme(QuantizationOptions("int8"), 100)


def test_int8_linear_is_per_channel_whatever_the_width() -> None:
    assert linear_scheme(QuantizationOptions("int8", 128), 100) == Scheme(8, None, True, "int8-per-token")


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_embedding_keeps_8_bits_in_small_groups(quant: str) -> None:
    assert embedding_scheme(QuantizationOptions(quant, 128), 576) == Scheme(8, 32, False, "none")  # type: ignore[arg-type]


def test_none_leaves_everything_in_floating_point() -> None:
    options = QuantizationOptions("none")
    assert linear_scheme(options, 100) is None
    assert embedding_scheme(options, 100) is None


@pytest.mark.parametrize(("quant", "group", "said"), [("int3", 32, "int3"), ("int4", 48, "48"), ("int4", 0, "got 0")])
def test_options_out_of_range_are_named(quant: str, group: int, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        QuantizationOptions(quant, group)  # type: ignore[arg-type]
