"""`edgekiln list`, `verify`, `rm` and engines that are named by their model."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekiln.engine.directory import ENGINE_FILE, WEIGHTS_FILE
from edgekiln.engine.manifest import read_manifest
from support.command import edgekiln, error_line


@pytest.fixture
def engine(tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """engines/tiny-int4 in a new current directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_engine, "engines/tiny-int4")
    return Path("engines/tiny-int4")


def test_list(engine: Path) -> None:
    shutil.copytree(engine, "engines/broken")
    (Path("engines/broken") / ENGINE_FILE).write_text("{}")
    result = edgekiln("list")
    header, broken, tiny = result.stdout.splitlines()
    assert header.split() == ["name", "model", "quantization", "target", "size", "built"]
    assert broken.split()[:2] == ["broken", "?"]
    assert tiny.split()[:4] == ["tiny-int4", "tiny-llama", "int4", "ort-cpu"]
    assert result.stderr.startswith("broken cannot be used: ")
    assert result.exit_code == 0
    rows = json.loads(edgekiln("list", "engines", "--json").stdout)["engines"]
    assert [row["name"] for row in rows] == ["broken", "tiny-int4"]
    assert rows[1]["bytes"] == sum(path.stat().st_size for path in engine.iterdir())
    assert rows[1]["error"] is None


def test_list_in_a_narrow_terminal(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "a-model-with-a-long-name-int4"
    engine.rename(engine.with_name(long))
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    shown = re.sub(r"\x1b\[[\d;]*m", "", edgekiln("list").stdout)
    assert "…" not in shown
    assert "".join(line.split(" ")[0] for line in shown.splitlines()).endswith(long)


def test_list_without_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = edgekiln("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "build one with `edgekiln engine MODEL`" in result.stderr
    assert json.loads(edgekiln("list", "--json").stdout) == {"directory": "engines", "engines": []}
    assert "no directory elsewhere" in error_line(edgekiln("list", "elsewhere"))


def test_commands_take_the_name_of_a_model(engine: Path) -> None:
    answers = [
        edgekiln("run", name, "-p", "hello", "--max-tokens", "3", "--temperature", "0") for name in ("tiny", engine)
    ]
    assert answers[0].exit_code == 0, answers[0].output
    assert answers[0].stdout == answers[1].stdout
    shown = json.loads(edgekiln("bench", "tiny-llama", "--prompt-tokens", "4", "--gen-tokens", "2", "--json").stdout)
    assert shown["engine"] == str(engine)
    shutil.copytree(engine, "engines/tiny-int8")
    assert "give tiny-int4 or tiny-int8" in error_line(edgekiln("inspect", "tiny"))
    assert "which has tiny-int4 and tiny-int8" in error_line(edgekiln("report", "large"))
    assert "build one with `edgekiln engine smollm2-135m`" in error_line(edgekiln("chat", "smollm2-135m"))
    assert "the path of the engine is empty" in error_line(edgekiln("run", ""))


def test_references_are_engines_by_their_whole_name(engine: Path) -> None:
    Path("text").write_text("The kiln is hot, and the bricks are dry. " * 3)
    shown = edgekiln("eval", "tiny", "--text", "text", "--reference", engine.name)
    assert "same top token 100.00%" in shown.stdout
    compared = edgekiln("compare", "tiny", engine.name, "--tolerance", "0.001")
    assert compared.exit_code == 0, compared.output
    assert "no model 'tiny'" in error_line(edgekiln("eval", "tiny", "--text", "text", "--reference", "tiny"))


def test_verify(engine: Path) -> None:
    result = edgekiln("verify", engine)
    assert result.exit_code == 0, result.output
    assert f"{engine}: {len(read_manifest(engine).files)} files, " in result.stdout
    assert "all sound; generated 8 tokens" in result.stdout
    shown = json.loads(edgekiln("verify", engine, "--json").stdout)
    assert set(shown["files"].values()) == {"sound"}
    assert shown["ran"] is True


def test_verify_names_damaged_files(engine: Path) -> None:
    weights = engine / WEIGHTS_FILE
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert f"{engine}: {WEIGHTS_FILE} differs from what was built" in error_line(edgekiln("verify", engine))
    (engine / "report.json").write_text("{}")
    result = edgekiln("verify", engine, "--json")
    assert f"report.json and {WEIGHTS_FILE} differ from" in error_line(result)
    assert json.loads(result.stdout)["files"][WEIGHTS_FILE] == "damaged"
    weights.unlink()
    assert f"{WEIGHTS_FILE} is missing" in error_line(edgekiln("verify", engine))


def test_verify_needs_no_torch(engine: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules.update(torch=None, transformers=None, onnx=None)\n"
        "from edgekiln.cli import main\n"
        f"main(['verify', {str(engine)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_rm(engine: Path) -> None:
    assert "give --yes" in error_line(edgekiln("rm", engine))
    assert "give one of them" in error_line(edgekiln("rm", "tiny", "--yes")), "names are not completed"
    result = edgekiln("rm", "tiny-int4", "--yes")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{engine}: removed, ")
    assert os.listdir("engines") == []


def test_rm_leaves_what_is_not_an_engine(engine: Path, tmp_path: Path) -> None:
    Path("plain").mkdir()
    assert "plain is not an engine directory" in error_line(edgekiln("rm", "plain", "--yes"))
    Path("link").symlink_to(engine)
    assert "is a link to" in error_line(edgekiln("rm", "link", "--yes"))
    (engine / "thesis.txt").write_text("years of work")
    assert "has thesis.txt, which is no file of an engine" in error_line(edgekiln("rm", engine, "--yes"))
    assert sorted(os.listdir(tmp_path)) == ["engines", "link", "plain"]
    assert (engine / "thesis.txt").exists()


@pytest.mark.parametrize(("answer", "status"), [("n", 1), ("y", 0)])
def test_rm_asks_on_a_terminal(engine: Path, answer: str, status: int) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "edgekiln", "rm", str(engine)], stdin=theirs, stderr=subprocess.PIPE, text=True
    ) as process:
        os.write(ours, f"{answer}\n".encode())
        assert process.stderr is not None
        asked = process.stderr.read()
        assert process.wait(timeout=60) == status
    assert f"Remove {engine} (tiny-llama int4, " in asked
    assert engine.exists() == (answer == "n")
    os.close(ours)
    os.close(theirs)


def test_inspect_tells_size_and_memory(engine: Path) -> None:
    facts = json.loads(edgekiln("inspect", engine, "--context", "10", "--json").stdout)
    model = read_manifest(engine).architecture
    row = 2 * sum(heads * size for heads, size in zip(model.kv_heads, model.head_dims, strict=True)) * 4
    weights = (engine / WEIGHTS_FILE).stat().st_size
    assert facts["memory"] == {"context": 10, "weights": weights, "kv_cache": 10 * row, "states": 0}
    assert facts["bytes"] == sum(path.stat().st_size for path in engine.iterdir())
    assert json.loads(edgekiln("inspect", engine, "--json").stdout)["memory"]["context"] == model.max_length
    shown = edgekiln("inspect", engine).stdout
    assert f" at {model.max_length} tokens: " in shown
    over = error_line(edgekiln("inspect", engine, "--context", str(model.max_length + 1)))
    assert f"the engine holds {model.max_length}" in over
