"""The records of a build: what is written of a weight, and what reading them back refuses."""

import json
from pathlib import Path

import pytest
import torch

from edgekiln.calib.analysis.layer_report import layer_report
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.engine.directory import QUANTIZATION_FILE, REPORT_FILE, write_json
from edgekiln.engine.reports import (
    BuildReport,
    QuantizationRecord,
    read_quantization,
    read_report,
)
from edgekiln.errors import EngineError

REPORT = {"build_seconds": 1.0, "steps": {"trace": 1.0}, "peak_rss_mb": 90.0, "sizes": {"a": 1}, "notes": []}


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    layer = layer_report(quantize(torch.randn(4, 64), Scheme(4, 32, False, "none")))
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
