"""Sizes as text."""

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def size_text(nbytes: float) -> str:
    """Bytes with three digits, such as 98 B, 46.1 kB, 141 MB and 1.24 GB; units are powers of 1000."""
    for size, unit in _UNITS:
        value = nbytes / size
        if value >= 0.9995:
            decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{decimals}f} {unit}"
    return f"{nbytes:.0f} B"
