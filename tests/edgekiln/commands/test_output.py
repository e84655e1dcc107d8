"""What commands print where paths are not UTF-8, or nobody reads it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekiln.commands._output import print_json
from support.command import edgekiln, error_line

ODD = os.fsdecode(b"\xff")


def test_json_keeps_the_bytes_of_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"engine": f"é/{ODD}", "tokens": [float("nan"), 1]})
    text = capsys.readouterr().out
    text.encode("utf-8")
    value = json.loads(text)
    assert os.fsencode(value["engine"]) == b"\xc3\xa9/\xff"
    assert value["tokens"] == [None, 1]


def test_an_engine_at_a_path_that_is_not_utf8(tiny_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / ODD / "engine"
    built = edgekiln("engine", tiny_checkpoint, "-o", output, "--quant", "none", "--json")
    assert built.exit_code == 0, built.stderr
    assert json.loads(built.stdout)["engine"] == str(output)
    for arguments in (["run", output, "-p", "hi", "--max-tokens", "2"], ["inspect", output, "--json"]):
        assert edgekiln(*arguments).exit_code == 0
    page = tmp_path / f"{ODD}.html"
    assert edgekiln("report", output, "--html", page).exit_code == 0
    assert page.read_text().endswith("</html>\n")
    assert "?/engine/report.json is a file of the engine" in error_line(
        edgekiln("report", output, "--html", output / "report.json")
    )
    assert "is not an engine directory" in error_line(edgekiln("engine", tiny_checkpoint, "-o", output.parent))


def test_a_model_at_a_path_that_is_not_utf8(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = tmp_path / ODD
    shutil.copytree(tiny_checkpoint, model)
    line = error_line(edgekiln("engine", model, "-o", tmp_path / "engine", "--quant", "none"))
    assert "is not UTF-8, so the libraries that read models cannot open it: rename it, or give a link to it" in line
    assert "\\udcff" in line
    (tmp_path / "link").symlink_to(model)
    built = edgekiln("engine", tmp_path / "link", "-o", tmp_path / "engine", "--quant", "none")
    assert built.exit_code == 0, built.stderr


def test_a_target_whose_library_needs_utf8_says_so_first(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = edgekiln("engine", tiny_checkpoint, "-o", tmp_path / ODD / "engine", "--target", "trt-rtx")
    line = error_line(result)
    assert "is not UTF-8, so TensorRT cannot open it" in line or "tensorrt" in line.lower()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tiny_engine: Path, redirection: str) -> None:
    command = f'"{sys.executable}" -m edgekiln inspect "{tiny_engine}" {redirection}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
