"""Plots, parsed from their SVG, show the data."""

from xml.etree import ElementTree

import pytest

from edgekiln.calib.report import plots


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def floats(element: ElementTree.Element, *names: str) -> tuple[float, ...]:
    return tuple(float(element.attrib[name]) for name in names)


def test_points_lie_on_a_logarithmic_axis() -> None:
    svg = parsed(plots.line_chart({"a": [(0, 1e-4), (5, 1e-3), (10, 1e-2)], "b": [(0, 1e-3)]}, "x", "y"))
    a0, a1, a2, b0 = (floats(circle, "cx", "cy") for circle in svg.iter("circle"))
    assert a1[0] - a0[0] == pytest.approx(a2[0] - a1[0], abs=0.2)
    assert a0[1] - a1[1] == pytest.approx(a1[1] - a2[1], abs=0.2)
    assert a0[1] > a2[1], "larger is higher up"
    assert b0 == (a0[0], a1[1])
    assert [text.text for text in svg.iter("text")][:3] == ["1e-4", "1e-3", "1e-2"]


def test_points_that_are_not_positive_are_left_out() -> None:
    svg = parsed(plots.line_chart({"kept": [(0, 0.0)], "b": [(0, 0.0), (1, 0.5)]}, "x", "y"))
    assert len(list(svg.iter("circle"))) == 1
    assert "kept" not in [text.text for text in svg.iter("text")]
    assert plots.line_chart({"kept": [(0, 0.0)]}, "x", "y") == ""


def test_bars_are_as_tall_as_their_values() -> None:
    svg = parsed(plots.column_chart([1, 4, 0, 2], ["a", "b", "c", "d"], "x"))
    tall = [float(bar.attrib["height"]) for bar in svg.iter("rect")]
    assert tall == pytest.approx([max(tall) * share for share in (0.25, 1, 0, 0.5)], abs=0.1)
    assert [bar.findtext("title") for bar in svg.iter("rect")] == ["a: 1", "b: 4", "c: 0", "d: 2"]
    wide = [bar.attrib["width"] for bar in parsed(plots.bar_chart({"n": 1.0, "m": 3.0}, "MB")).iter("rect")]
    assert float(wide[1]) == pytest.approx(3 * float(wide[0]), abs=0.3)
    assert plots.column_chart([0, 0], ["a", "b"], "x") == plots.bar_chart({}, "MB") == ""


def test_names_cannot_break_out_of_the_markup() -> None:
    name = '<script>"&'
    for svg in (
        plots.line_chart({name: [(0, 1.0)]}, name, name),
        plots.column_chart([1], [name], name),
        plots.bar_chart({name: 1}, name),
    ):
        assert not list(parsed(svg).iter("script"))
        assert any(name in (text.text or "") for text in parsed(svg).iter("text"))
