"""quantization.json and report.json: reading them back, and the errors for files that cannot be read."""

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
    QuantizationReport,
    read_quantization,
    read_report,
    step_weight_bytes,
)
from edgekiln.errors import EngineError

REPORT = {
    "build_seconds": 1.0,
    "steps": {"trace": 1.0},
    "peak_rss_mb": 90.0,
    "sizes": {"a": 1},
    "step_weight_bytes": 17,
    "notes": [],
}


def test_reports_are_read_back_as_written(tmp_path: Path) -> None:
    layer = layer_report(quantize(torch.randn(4, 64), Scheme(4, 32, False, "none")))
    report = QuantizationReport(scheme="int4", group_size=32, layers={"model.layers.0.mlp.up_proj": layer})
    write_json(tmp_path / QUANTIZATION_FILE, report.model_dump())
    assert read_quantization(tmp_path) == report
    write_json(tmp_path / REPORT_FILE, REPORT)
    assert read_report(tmp_path) == BuildReport.model_validate(REPORT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing from the engine: build it again"),
        (b"{", "is damaged or from another edgekiln (Invalid JSON"),
        (b"\xff", "is damaged (it is not UTF-8): build the engine again"),
        (json.dumps({**REPORT, "notes": [3]}).encode(), "(notes.0: Input should be a valid string)"),
        (
            json.dumps({**REPORT, "schema_version": 3}).encode(),
            "has schema version 3, this edgekiln reads version 2: upgrade edgekiln",
        ),
        (
            json.dumps({"seconds": 1.0, "schema_version": 1}).encode(),
            "has schema version 1, this edgekiln reads version 2: build the engine again",
        ),
        (json.dumps({**REPORT, "schema_version": "x"}).encode(), "has schema version 'x'"),
    ],
    ids=["missing", "cut short", "not text", "wrong type", "newer", "older", "no version"],
)
def test_a_report_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / REPORT_FILE).write_bytes(content)
    with pytest.raises(EngineError) as failure:
        read_report(tmp_path)
    assert str(failure.value).startswith(str(tmp_path / REPORT_FILE))
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)


def test_bytes_of_weights_are_told_where_the_report_has_them(tmp_path: Path) -> None:
    assert step_weight_bytes(tmp_path) is None
    write_json(tmp_path / REPORT_FILE, {name: value for name, value in REPORT.items() if name != "step_weight_bytes"})
    assert step_weight_bytes(tmp_path) is None
    write_json(tmp_path / REPORT_FILE, REPORT)
    assert step_weight_bytes(tmp_path) == 17
