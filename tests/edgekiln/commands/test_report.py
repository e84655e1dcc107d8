"""`edgekiln report`: the reports of a build as JSON, a table and an HTML page."""

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgekiln.engine.directory import QUANTIZATION_FILE, REPORT_FILE, write_json
from edgekiln.engine.manifest import read_manifest, write_manifest
from edgekiln.engine.reports import Quality, read_quantization, read_report
from support.command import edgekiln


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def measured(tiny_engine: Path, tmp_path: Path) -> Path:
    """A copy of the engine whose report has quality and a note that is an HTML injection."""
    engine = tmp_path / "measured"
    shutil.copytree(tiny_engine, engine)
    quality = Quality(
        text="book.txt",
        sha256="0" * 64,
        window=512,
        tokens=1000,
        perplexity_before=20.25,
        perplexity_after=None,
        kl_divergence=0.5,
        same_top=0.75,
    )
    report = read_report(engine).model_copy(update={"quality": quality, "notes": ["<script>alert(1)</script>"]})
    manifest = read_manifest(engine)
    write_json(engine / REPORT_FILE, report.model_dump())
    write_manifest(engine, **manifest.model_dump(exclude={"files"}))
    return engine


def test_json_is_the_report_files(measured: Path) -> None:
    shown = json.loads(edgekiln("report", measured, "--json").stdout)
    assert shown["engine"] == str(measured)
    assert shown["quantization"] == json.loads((measured / QUANTIZATION_FILE).read_text())
    assert shown["report"] == json.loads((measured / REPORT_FILE).read_text())


def test_table(tiny_engine: Path, measured: Path) -> None:
    lines = edgekiln("report", tiny_engine, "--layers").stdout.splitlines()
    assert lines[0] == "tiny-llama, int4 for ort-cpu"
    layers = read_quantization(tiny_engine).layers
    rows = {line.split()[0]: line for line in lines if line.split()[0] in layers}
    assert set(rows) == set(layers)
    for name, layer in layers.items():
        for shown in (f"{layer.relative_error:.2e}", f"{layer.clipped:.2%}", f"{layer.scale_min:.1e}", "asymmetric"):
            assert shown in rows[name]
    shown = edgekiln("report", measured).stdout
    assert "20.25 in float32, ∞ now" in shown
    assert "0.50000 nats" in shown
    assert "note: <script>alert(1)</script>" in shown


def test_summary_names_the_worst_layers_first(tiny_engine: Path) -> None:
    layers = read_quantization(tiny_engine).layers
    worst = sorted(layers, key=lambda name: -layers[name].relative_error)[:5]
    lines = edgekiln("report", tiny_engine).stdout.splitlines()
    assert [line.split()[-1] for line in lines[-5:]] == worst
    assert lines[-6] == f"largest weight error, 5 of {len(layers)} layers (--layers shows all)"
    bits = [layer.bits for layer in layers.values()]
    counts = ", ".join(f"{bits.count(number)} with {number} bits" for number in sorted(set(bits)))
    assert f"  layers         {counts}" in lines


def test_summary_prefers_output_errors(tiny_engine: Path, tmp_path: Path) -> None:
    engine = tmp_path / "calibrated"
    shutil.copytree(tiny_engine, engine)
    manifest, quantization = read_manifest(engine), read_quantization(engine)
    names = list(quantization.layers)
    changed = {
        name: layer.model_copy(update={"output_error": 0.5 if name == names[3] else None})
        for name, layer in quantization.layers.items()
    }
    changed[names[0]] = changed[names[0]].model_copy(update={"relative_error": 0.0})
    write_json(engine / QUANTIZATION_FILE, quantization.model_copy(update={"layers": changed}).model_dump())
    write_manifest(engine, **manifest.model_dump(exclude={"files"}))
    shown = edgekiln("report", engine).stdout
    assert shown.splitlines()[-1].split() == ["5.00e-01", str(changed[names[3]].bits), "bits", names[3]]
    assert "; 1 keep the codes of the checkpoint" in shown


def test_page_is_self_contained_and_complete(measured: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    result = edgekiln("report", measured, "--html", path)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{path}\n"
    page = Page(path.read_text(encoding="utf-8"))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe"}
    assert not [attributes for _, attributes in page.tags if {"src", "href", "onload"} & set(attributes)]
    assert "url(" not in path.read_text(encoding="utf-8")
    for name, layer in read_quantization(measured).layers.items():
        assert name in page.texts
        assert f"{layer.relative_error:.2e}" in page.texts
    assert {"20.25", "∞", "0.50000 nats", "75.00%", "<script>alert(1)</script>"} <= set(page.texts)
    # Plots without calibration: weight error, scales, zero points of 4 and 8 bits, sizes, times.
    assert sum(tag == "svg" for tag, _ in page.tags) == 1 + 2 + 2 + 2
    assert "Output error by layer" not in page.texts
    kinds = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert kinds <= set(page.texts)


def test_report_needs_no_torch(measured: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules.update(torch=None, transformers=None, onnx=None, onnxruntime=None)\n"
        "from edgekiln.cli import main\n"
        f"main(['report', {str(measured)!r}, '--html', {str(tmp_path / 'page.html')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").endswith("</html>\n")


def test_html_in_a_directory_that_does_not_exist(tiny_engine: Path, tmp_path: Path) -> None:
    result = edgekiln("report", tiny_engine, "--html", tmp_path / "missing" / "page.html")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert str(tmp_path / "missing") in line
    assert "No such file or directory" in line


def test_html_path_that_is_a_directory(tiny_engine: Path, tmp_path: Path) -> None:
    result = edgekiln("report", tiny_engine, "--html", tmp_path)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "Is a directory" in line
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))


def test_not_an_engine(tmp_path: Path) -> None:
    result = edgekiln("report", tmp_path / "nothing")
    assert result.exit_code == 2
    assert f"no engine directory at {tmp_path / 'nothing'}" in result.stderr


def test_an_edited_report_is_refused(measured: Path) -> None:
    (measured / REPORT_FILE).write_text("{}")
    result = edgekiln("report", measured)
    assert result.exit_code == 2
    assert "report.json is damaged or was edited" in result.stderr


def test_experts_are_shown_with_the_worst(tiny_engine: Path, tmp_path: Path) -> None:
    engine = tmp_path / "mixture"
    shutil.copytree(tiny_engine, engine)
    manifest, quantization = read_manifest(engine), read_quantization(engine)
    layer = next(iter(quantization.layers.values()))
    stack = layer.model_copy(update={"experts": 3, "expert_errors": [0.01, 0.03, 0.02]})
    layers = {**quantization.layers, "model.layers.0.mlp.experts.down_proj": stack}
    write_json(engine / QUANTIZATION_FILE, quantization.model_copy(update={"layers": layers}).model_dump())
    write_manifest(engine, **manifest.model_dump(exclude={"files"}))
    shown = edgekiln("report", engine, "--layers", "--html", tmp_path / "page.html").stdout
    assert "3, worst 1: 3.0e-02" in " ".join(shown.split())
    text = (tmp_path / "page.html").read_text()
    assert "3, worst 1: 3.0e-02" in text
    assert f"3 × {layer.out_features} × {layer.in_features}" in text
    assert "Weight error of the worst expert" in text
    assert "model.layers.0.mlp.experts.down_proj (3 experts)" in edgekiln("inspect", engine, "--layers").stdout
