"""Sizes as text."""

import pytest

from edgekiln.units import size_text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (46080, "46.1 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (9_994_000, "9.99 MB"),
        (9_996_000, "10.0 MB"),
        (141_079_900, "141 MB"),
        (1_235_000_000, "1.24 GB"),
        (2.5e15, "2500 TB"),
    ],
)
def test_three_digits(nbytes: float, text: str) -> None:
    assert size_text(nbytes) == text
