"""The records of a build: what is written of a weight, and what reading them back refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.engine.directory import QUANTIZATION_FILE, REPORT_FILE, write_json
from edgekiln.engine.reports import (
    BuildReport,
    QuantizationRecord,
    ScaleHistogram,
    added,
    layer_record,
    read_quantization,
    read_report,
    scale_histogram,
)
from edgekiln.errors import EngineError

REPORT = {"build_seconds": 1.0, "steps": {"trace": 1.0}, "peak_rss_mb": 90.0, "sizes": {"a": 1}, "notes": []}


def test_a_channel_weight() -> None:
    weight = torch.tensor([[127.0, -1.0], [128.0, -254.0]]).repeat(1, 16)
    record = layer_record(quantize(weight, Scheme(8, None, True, "int8-per-token")), output_error=0.25)
    assert (record.rows, record.columns) == (2, 32)
    assert (record.bits, record.group_size, record.symmetric, record.activation) == (8, None, True, "int8-per-token")
    assert (record.scale_min, record.scale_max) == (pytest.approx(1.0), pytest.approx(2.0, rel=1e-4))
    assert (record.zero_points, record.clipped, record.output_error) == (None, 0.0, 0.25)
    assert record.relative_error == pytest.approx(0.0, abs=1e-4)
    assert sum(record.scales.counts) == 2


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_points_are_counted_over_the_range_of_the_codes(bits: int) -> None:
    quantized = quantize(torch.randn(8, 64) + 1, Scheme(bits, 32, False, "none"))
    zero_points = layer_record(quantized).zero_points
    expected, _ = np.histogram(quantized.zero_points, bins=16, range=(0, 1 << bits))  # type: ignore[arg-type]
    assert zero_points == expected.tolist()


def test_scales_fall_into_half_octaves_of_fixed_place() -> None:
    scales = np.array([[0.5, 0.7], [0.75, 1.0], [0.0, 3.9]], dtype=np.float32)
    histogram = scale_histogram(scales)
    # From 2^-1: [0.5, 0.707), [0.707, 1), [1, 1.414), then up to [2.83, 4).
    assert histogram == ScaleHistogram(first=-2, counts=[2, 1, 1, 0, 0, 1])
    together = added([scale_histogram(scales[:1]), scale_histogram(scales[1:2]), scale_histogram(scales[2:])])
    assert together == histogram
    assert added([scale_histogram(np.zeros(3, np.float32))]) == ScaleHistogram(first=0, counts=[])


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    layer = layer_record(quantize(torch.randn(4, 64), Scheme(4, 32, False, "none")))
    record = QuantizationRecord(scheme="int4", group_size=32, layers={"model.layers.0.mlp.up_proj": layer})
    write_json(tmp_path / QUANTIZATION_FILE, record.model_dump())
    assert read_quantization(tmp_path) == record
    write_json(tmp_path / REPORT_FILE, REPORT)
    assert read_report(tmp_path) == BuildReport.model_validate(REPORT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing from the engine: build it again"),
        (b"{", "is damaged or from another edgekiln (Invalid JSON"),
        (b"\xff", "is damaged (it is not UTF-8): build the engine again"),
        (json.dumps({**REPORT, "notes": [3]}).encode(), "(notes.0: Input should be a valid string)"),
        (json.dumps({**REPORT, "schema_version": 2}).encode(), "has schema version 2, this edgekiln reads up to 1"),
        (json.dumps({**REPORT, "schema_version": "x"}).encode(), "has schema version 'x'"),
    ],
    ids=["missing", "cut short", "not text", "wrong type", "newer", "no version"],
)
def test_a_report_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / REPORT_FILE).write_bytes(content)
    with pytest.raises(EngineError) as failure:
        read_report(tmp_path)
    assert str(failure.value).startswith(str(tmp_path / REPORT_FILE))
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)
