"""Scales rounded to float16 against numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekiln.calib.formats.float16 import round_to_float16


@given(st.lists(st.floats(2.0**-14, 65504.0, width=32), max_size=8))
def test_rounding_is_that_of_numpy(values: list[float]) -> None:
    exact = np.array(values, dtype=np.float32)
    np.testing.assert_array_equal(round_to_float16(torch.from_numpy(exact)).numpy(), exact.astype(np.float16))


@pytest.mark.parametrize("beyond", [1e-9, 1e-5, 65520.0, 7e4])
def test_no_scale_is_rounded_if_one_would_lose_precision(beyond: float) -> None:
    scales = torch.tensor([0.1, beyond])
    assert round_to_float16(scales) is scales


def test_subnormal_scales_that_keep_their_precision_are_rounded() -> None:
    scales = torch.tensor([0.1, 2.0**-15, 3 * 2.0**-24, 1000.4 * 2.0**-24])
    expected = torch.tensor([0.1, 2.0**-15, 3 * 2.0**-24, 1000 * 2.0**-24]).half().float()
    torch.testing.assert_close(round_to_float16(scales), expected, rtol=0, atol=0)
