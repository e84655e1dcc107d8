"""`edgekiln engine`: builds of a small model; failures and signals leave no files behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgekiln.calib.data.options import DataOptions
from edgekiln.calib.limits import Limits
from edgekiln.calib.recipe import LayerSpec, Recipe
from edgekiln.engine.directory import WEIGHTS_FILE
from edgekiln.engine.manifest import QuantizationRecipe, read_manifest
from edgekiln.engine.reports import read_report
from edgekiln.errors import EngineError
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.base import ModelSource
from edgekiln.sources.safetensors import SafetensorsReader
from support.command import edgekiln, error_line, without_steps
from support.models import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama with an intermediate size of 96, which is not a multiple of 64."""
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny-llama"
    save_checkpoint(directory, "llama", intermediate_size=96, num_hidden_layers=1)
    return directory


def test_builds_an_engine_that_runs(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "engine"
    result = edgekiln(
        "engine", checkpoint, "-o", output, "--quant", "int4", "--group-size", "64", "--max-length", "100"
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{output}: tiny-llama int4 for ort-cpu, ")
    manifest = read_manifest(output)
    assert manifest.quantization == QuantizationRecipe(scheme="int4", group_size=64)
    assert manifest.architecture.max_length == 100
    assert "note: " in result.stderr
    assert "32" in result.stderr, "layers that 64 does not divide fall back to 32, with a note"
    assert os.listdir(output.parent) == ["engine"]
    assert edgekiln("run", output, "-p", "hello", "--max-tokens", "4").exit_code == 0


def test_default_output_and_json(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = edgekiln("engine", checkpoint, "--quant", "none", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["engine"] == str(Path("engines/tiny-llama-none"))
    engine = tmp_path / report["engine"]
    assert report["bytes"] == sum(path.stat().st_size for path in engine.iterdir())
    assert report["build_seconds"] > 0
    assert report["peak_rss_mb"] > 10


class Source(SimpleNamespace, ModelSource):
    """A model source with a few attributes."""


def test_options_reach_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[object, ...]] = []

    def build_engine(source: object, output: Path, options: BuildOptions, _progress: object) -> None:
        calls.append((source, output, options))
        raise EngineError("far enough")

    def resolve(reference: str, trust_remote_code: bool, progress: Callable[[str, float], None]) -> Source:
        progress("reading model", 0.5)
        return Source(name=reference.upper(), trusted=trust_remote_code)

    monkeypatch.setattr("edgekiln.pipeline.build.build_engine", build_engine)
    monkeypatch.setattr("edgekiln.commands.engine.resolve", resolve)
    assert error_line(edgekiln("engine", "m", "--trust-remote-code")) == "Error: far enough"
    assert error_line(edgekiln("engine", "--quant", "int4", "--group-size", "128", "--max-length", "9", "-o", tmp_path))
    assert calls == [
        (Source(name="M", trusted=True), Path("engines/M-int8"), BuildOptions()),
        (
            Source(name="SMOLLM2-135M", trusted=False),
            tmp_path,
            BuildOptions(quant="int4", group_size=128, max_length=9),
        ),
    ]


def test_calibration_options_reach_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[BuildOptions] = []

    def build_engine(_source: object, _output: Path, options: BuildOptions, _progress: object) -> None:
        calls.append(options)
        raise EngineError("far enough")

    monkeypatch.setattr("edgekiln.pipeline.build.build_engine", build_engine)
    monkeypatch.setattr("edgekiln.commands.engine.resolve", lambda *_, **__: Source(name="m"))
    (tmp_path / "mine.yaml").write_text("default: {bits: 8, group_size: 32}\n")
    given = ("--calib-data", "text.txt", "--calib-samples", "8", "--calib-length", "64", "--max-kl", "0.1")
    assert error_line(edgekiln("engine", "m", "--recipe", tmp_path / "mine.yaml", *given)) == "Error: far enough"
    (options,) = calls
    assert options.quant == "mine"
    assert options.recipe == Recipe(default=LayerSpec(bits=8, group_size=32))
    assert options.data == DataOptions("text.txt", 8, 64)
    assert options.chosen_limits == Limits(max_kl=0.1)
    assert BuildOptions(quant="mixed").chosen_limits == Limits(max_ppl_increase=1.0)


def test_bad_recipes_and_data_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("default: {bits: 4, group_size: 32}\noverrides: [{match: '*.ffn.*', skip: true}]\n")
    build = ("engine", checkpoint, "-o", tmp_path / "engine")
    assert "'*.ffn.*' matches no layer of the model" in error_line(edgekiln(*build, "--recipe", recipe))
    assert "write group_size in the file" in error_line(edgekiln(*build, "--recipe", recipe, "--group-size", "32"))
    assert "No such file" in error_line(edgekiln(*build, "--recipe", tmp_path / "none.yaml"))
    data = tmp_path / "data.jsonl"
    data.write_text("{}")
    assert f"{data}, line 1: it needs either" in error_line(edgekiln(*build, "--calib-data", data))
    assert "max kl must be above 0, got -1.0" in error_line(edgekiln(*build, "--max-kl", "-1"))
    assert not (tmp_path / "engine").exists()


def test_unknown_model(tmp_path: Path) -> None:
    assert "no model 'no-such-model'" in error_line(edgekiln("engine", "no-such-model", "-o", tmp_path / "engine"))
    assert not (tmp_path / "engine").exists()


def test_truncated_safetensors(checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in checkpoint.iterdir():
        data = path.read_bytes()
        (broken / path.name).write_bytes(data[: len(data) // 2] if path.suffix == ".safetensors" else data)
    assert "model.safetensors" in error_line(edgekiln("engine", broken, "-o", tmp_path / "engine"))
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("content", [b"GGUF\x03\x00\x00\x00\x05", b"not a model", b""])
def test_damaged_gguf(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert str(path) in error_line(edgekiln("engine", path, "-o", tmp_path / "engine"))
    assert os.listdir(tmp_path) == ["model.gguf"]


def test_max_length_above_the_context(checkpoint: Path, tmp_path: Path) -> None:
    result = edgekiln("engine", checkpoint, "-o", tmp_path / "engine", "--max-length", "257")
    assert "256" in error_line(result)
    assert os.listdir(tmp_path) == []


def test_output_directory_with_other_files_is_not_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "is not an engine directory" in error_line(edgekiln("engine", checkpoint, "-o", tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["thesis.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_full_disk(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out" / "engine"

    def mkdtemp(prefix: str, dir: Path) -> str:
        directory = dir / f"{prefix}test"
        directory.mkdir()
        (directory / WEIGHTS_FILE).symlink_to("/dev/full")
        return str(directory)

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    assert "no space left on the disk" in error_line(edgekiln("engine", checkpoint, "-o", output, "--quant", "int4"))
    assert os.listdir(output.parent) == []


def test_without_the_export_extra(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['onnx_ir'] = None\n"
        "from edgekiln.cli import main\n"
        f"main(['engine', 'smollm2-135m', '-o', {str(tmp_path / 'engine')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert without_steps(done.stderr) == ["Error: onnx_ir is not installed: `pip install 'edgekiln[export]'`"]


def stopped_build(checkpoint: Path, output: Path) -> "subprocess.Popen[str]":
    """A process whose build has stopped in calibration, when all files of a scratch engine but one are written."""
    script = (
        "import os, time\n"
        "import edgekiln.pipeline.assemble as assemble\n"
        "from edgekiln.cli import main\n"
        "def write_manifest(directory, **_):\n"
        "    print(sorted(os.listdir(directory)), flush=True)\n"
        "    time.sleep(60)\n"
        "assemble.write_manifest = write_manifest\n"
        f"main(['engine', {str(checkpoint)!r}, '-o', {str(output)!r}])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert WEIGHTS_FILE in process.stdout.readline()
    return process


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_signal_during_a_build(checkpoint: Path, tmp_path: Path, number: signal.Signals, status: int) -> None:
    with stopped_build(checkpoint, tmp_path / "engine") as process:
        assert process.stderr
        process.send_signal(number)
        process.send_signal(number)  # a second signal must not interrupt the clean-up
        errors = process.stderr.read()
        assert process.wait(timeout=60) == status
    assert without_steps(errors) == (["Interrupted"] if number == signal.SIGINT else [])
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_the_next_build_removes_what_a_killed_one_left(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, scratch = tmp_path / "out" / "engine", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with stopped_build(checkpoint, output) as process:
        process.kill()
    (unfinished,), (left,) = output.parent.iterdir(), scratch.glob("edgekiln*")
    assert (left / WEIGHTS_FILE).exists()
    assert edgekiln("engine", checkpoint, "-o", output).exit_code == 0
    assert not unfinished.exists()
    assert not left.exists()
    assert os.listdir(output.parent) == ["engine"]


def test_a_dry_run_builds_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SafetensorsReader, "read", lambda *_: pytest.fail("a weight was read"))
    shown = edgekiln("engine", checkpoint, "--dry-run", "--quant", "int4", "--group-size", "64")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("engines/tiny-llama-int4: tiny-llama int4 for ort-cpu, not built\n")
    assert "note: model.layers.0.mlp.down_proj is 96 wide" in shown.stderr
    assert "estimated from the shapes" in shown.stdout
    facts = json.loads(edgekiln("engine", checkpoint, "--dry-run", "--json", "-o", "mine").stdout)
    assert facts["engine"] == "mine"
    assert facts["layers"] == {"8": 9}
    assert facts["engine_bytes"] == facts["weights_bytes"] + facts["other_bytes"]
    assert os.listdir(tmp_path) == []
    assert "is over the model's context" in error_line(
        edgekiln("engine", checkpoint, "--dry-run", "--max-length", "257")
    )


def test_the_tiny_dry_run_is_near_the_build(checkpoint: Path, tmp_path: Path) -> None:
    for quant in ("int8", "int4", "none"):
        estimate = json.loads(edgekiln("engine", checkpoint, "--dry-run", "--json", "--quant", quant).stdout)
        build = ("engine", checkpoint, "-o", tmp_path / quant, "--quant", quant, "--calib-samples", "2", "--json")
        built = json.loads(edgekiln(*build).stdout)
        assert estimate["weights_bytes"] == pytest.approx(built["sizes"][WEIGHTS_FILE], rel=0.2), "pages are large here"


def test_steps_are_lines_without_a_terminal(checkpoint: Path, tmp_path: Path) -> None:
    build = ("engine", checkpoint, "-o", tmp_path / "engine", "--quant", "none")
    result = edgekiln(*build)
    steps = [line.partition("] ")[2] for line in result.stderr.splitlines() if line not in without_steps(result.stderr)]
    assert steps[:2] == ["loading libraries", "reading model"]
    assert [step for step in steps if step in ("trace", "write", "smoke run")] == ["trace", "write", "smoke run"]
    quiet = edgekiln(*build, "--quiet")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")
    assert "Error: " in edgekiln("engine", "no-such-model", "-q").stderr
    assert json.loads(edgekiln(*build, "--quiet", "--json").stdout)["engine"] == str(tmp_path / "engine")


def test_notes_with_details_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    tensors = load_file(model / "model.safetensors")
    extra = [f"extra.{number}.weight" for number in range(5)]
    save_file(tensors | {name: torch.zeros(1) for name in extra}, model / "model.safetensors", {"format": "pt"})
    build = ("engine", model, "-o", tmp_path / "engine", "--quant", "none")
    note = "note: 5 tensors in the checkpoint are not part of LlamaForCausalLM"
    assert without_steps(edgekiln(*build).stderr)[0] == f"{note} (--verbose lists them)"
    shown = without_steps(edgekiln(*build, "--verbose").stderr)
    assert shown[shown.index(note) + 1 :][:5] == [f"  {name}" for name in extra]
    assert extra[4] in read_report(tmp_path / "engine").notes[0]
    assert extra[4] not in edgekiln("report", tmp_path / "engine").stdout
    assert extra[4] in edgekiln("report", tmp_path / "engine", "--layers").stdout


def test_strict_refuses_layers_that_stay_in_floating_point(checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("default: {bits: 4, group_size: 32}\noverrides: [{match: '*.mlp.*', skip: true}]\n")
    build = ("engine", checkpoint, "-o", tmp_path / "engine", "--recipe", recipe)
    line = error_line(edgekiln(*build, "--strict"))
    assert "of the parameters stay in floating point: model.layers.*.mlp." in line
    assert line.endswith("change the recipe or build without --strict")
    assert os.listdir(tmp_path) == ["recipe.yaml"]
    assert "of the parameters stay in floating point" in edgekiln(*build).stderr


def test_another_model_needs_force(checkpoint: Path, tmp_path: Path) -> None:
    other, output = tmp_path / "other", tmp_path / "engine"
    save_checkpoint(other, "llama", num_hidden_layers=1)
    build = ("-o", output, "--quant", "none")
    for arguments in ([checkpoint, *build], [checkpoint, "-o", output, "--quant", "int4"]):
        assert edgekiln("engine", *arguments).exit_code == 0
    line = error_line(edgekiln("engine", other, *build))
    assert f"{output} is an engine of {checkpoint}: choose another output with -o, or replace it with --force" in line
    assert read_manifest(output).source == str(checkpoint)
    assert edgekiln("engine", other, *build, "--force").exit_code == 0
    assert read_manifest(output).source == str(other)


def test_outputs_are_checked_before_the_model_is_resolved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edgekiln.commands.engine.resolve", lambda *_, **__: pytest.fail("resolved"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    for output in (".", "file", "/", "file/engine", "n" * 256):
        assert "-o" in error_line(edgekiln("engine", "owner/large-model", "-o", output))
    assert os.listdir(tmp_path) == ["file"]


def test_the_model_is_not_replaced(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "engine"
    assert edgekiln("engine", checkpoint, "-o", output, "--quant", "none").exit_code == 0
    (output / "model").mkdir()
    for path in checkpoint.iterdir():
        (output / "model" / path.name).write_bytes(path.read_bytes())
    line = error_line(edgekiln("engine", output / "model", "-o", output, "--force"))
    assert "engine has model, which is no file of an engine: move it away" in line
    assert "is not an engine directory" in error_line(edgekiln("engine", output / "model", "-o", output / "model"))
    inside = edgekiln("engine", output / "model", "-o", output / "model" / "engine", "--quant", "none")
    assert inside.exit_code == 0, inside.stderr


def test_graphs_have_no_paths_of_this_machine(checkpoint: Path, tmp_path: Path) -> None:
    assert edgekiln("engine", checkpoint, "-o", tmp_path / "engine").exit_code == 0
    for graph in (tmp_path / "engine").glob("*.onnx"):
        data = graph.read_bytes()
        assert b"stack_trace" not in data
        assert b"modeling_llama.py" not in data
    others = (path for path in (tmp_path / "engine").iterdir() if path.name != "engine.json")  # which has the model id
    assert not any(b"-tmp-" in path.read_bytes() for path in others)


@pytest.mark.slow
def test_a_dry_run_of_the_default_model_is_right(real_engine: Callable[[str], Path]) -> None:
    for quant in ("int4", "none"):
        estimate = json.loads(edgekiln("engine", "--quant", quant, "--dry-run", "--json").stdout)
        built = sum(path.stat().st_size for path in real_engine(quant).iterdir())
        assert estimate["engine_bytes"] == pytest.approx(built, rel=0.05)
        measured = read_report(real_engine(quant))
        assert estimate["weights_bytes"] == pytest.approx(measured.sizes[WEIGHTS_FILE], rel=0.01)


@pytest.mark.slow
def test_the_default_model_answers(tmp_path: Path) -> None:
    built = edgekiln("engine", "smollm2-135m", "-o", tmp_path / "engine")
    assert built.exit_code == 0, built.output
    question = "What is the capital of Japan?"
    answered = edgekiln("run", tmp_path / "engine", "--chat", "--temperature", "0", "-p", question)
    assert answered.exit_code == 0, answered.output
    assert "Tokyo" in answered.stdout
