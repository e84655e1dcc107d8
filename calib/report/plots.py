"""Small plots as inline SVG. Text and grid lines take the colours of the surrounding page."""

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH = 720
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 40
_HEIGHT = 260
_ROW = 24
_LABELS = 170  # width of the names beside the bars of a bar chart
# Distinguishable with impaired colour vision (Okabe and Ito 2008). Further series share the last colour.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a00", "#888888")

Point = tuple[float, float]


def line_chart(series: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> str:
    """Draw one line per series on a logarithmic y axis, with a legend. Points with y <= 0 are left out.

    Returns:
        An <svg> element; "" if no point is left.
    """
    kept = {name: [(x, y) for x, y in points if y > 0] for name, points in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    xs = [x for points in kept.values() for x, _ in points]
    ys = [math.log10(y) for points in kept.values() for _, y in points]
    low, high = math.floor(min(ys)), math.ceil(max(ys))
    high = max(high, low + 1)
    columns = 4
    legend_top = _HEIGHT + 4
    height = legend_top + 18 * math.ceil(len(kept) / columns)

    def place(x: float, y: float) -> Point:
        across = (x - min(xs)) / ((max(xs) - min(xs)) or 1)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _TOP + (high - math.log10(y)) / (high - low) * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = []
    for decade in range(low, high + 1):
        _, y = place(min(xs), 10.0**decade)
        parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "grid"))
        parts.append(_text(_LEFT - 6, y + 4, f"1e{decade}", "end"))
    for x in _ticks(min(xs), max(xs)):
        parts.append(_text(place(x, 10.0**low)[0], _HEIGHT - _BOTTOM + 16, f"{x:g}"))
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 6, x_label))
    parts.append(f'<text transform="translate(12 {_HEIGHT / 2:.0f}) rotate(-90)" {_MIDDLE}>{escape(y_label)}</text>')
    for index, (name, points) in enumerate(kept.items()):
        color = COLORS[min(index, len(COLORS) - 1)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        for point in points:
            x, y = place(*point)
            title = escape(f"{name} {point[0]:g}: {point[1]:.3g}")
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"><title>{title}</title></circle>')
        left = _LEFT + (index % columns) * (_WIDTH - _LEFT) / columns
        top = legend_top + 18 * (index // columns)
        parts.append(f'<rect x="{left:.0f}" y="{top:.0f}" width="10" height="10" fill="{color}"/>')
        parts.append(_text(left + 14, top + 9, name, "start"))
    return _svg(height, parts)


def column_chart(values: Sequence[float], labels: Sequence[str], x_label: str) -> str:
    """Draw vertical bars from 0, as in a histogram. Labels that would overlap are left out.

    Returns:
        An <svg> element; "" if no value is above 0.
    """
    if not any(values):
        return ""
    most = max(values)
    width = (_WIDTH - _LEFT - _RIGHT) / len(values)
    floor = _HEIGHT - _BOTTOM
    every = math.ceil(len(values) * max(len(label) for label in labels) * 8 / (_WIDTH - _LEFT - _RIGHT))
    parts = [_line(_LEFT, floor, _WIDTH - _RIGHT, floor, "grid"), _text(_LEFT - 6, _TOP + 8, f"{most:,.0f}", "end")]
    for index, (value, label) in enumerate(zip(values, labels, strict=True)):
        left = _LEFT + index * width
        tall = value / most * (floor - _TOP)
        title = escape(f"{label}: {value:,.0f}")
        parts.append(
            f'<rect x="{left + 1:.1f}" y="{floor - tall:.1f}" width="{max(width - 2, 1):.1f}" height="{tall:.1f}" '
            f'fill="{COLORS[0]}"><title>{title}</title></rect>'
        )
        if index % every == 0:
            parts.append(_text(left + width / 2, floor + 16, label))
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 6, x_label))
    return _svg(_HEIGHT, parts)


def bar_chart(values: Mapping[str, float], unit: str) -> str:
    """Draw horizontal bars with their names and values; `unit` follows each value.

    Returns:
        An <svg> element; "" if no value is above 0.
    """
    if not any(values.values()):
        return ""
    most = max(values.values())
    room = _WIDTH - _LABELS - 110
    parts = []
    for index, (name, value) in enumerate(values.items()):
        top = index * _ROW
        long = value / most * room
        parts.append(_text(_LABELS - 8, top + 16, name, "end"))
        parts.append(f'<rect x="{_LABELS}" y="{top + 4}" width="{long:.1f}" height="{_ROW - 8}" fill="{COLORS[0]}"/>')
        parts.append(_text(_LABELS + long + 6, top + 16, f"{value:,.3g} {unit}", "start"))
    return _svg(len(values) * _ROW, parts)


_MIDDLE = 'text-anchor="middle"'


def _svg(height: float, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img">{"".join(parts)}</svg>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """About ten integers from `low` to `high`."""
    step = max(1, round((high - low) / 10))
    return [float(x) for x in range(math.ceil(low), math.floor(high) + 1, step)]
