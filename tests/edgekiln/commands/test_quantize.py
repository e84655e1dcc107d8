"""`edgekiln quantize`: options reach the checkpoint; failures are one line and leave no files behind."""

import json
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from support.command import edgekiln, error_line, without_steps


def test_a_checkpoint_and_an_engine_from_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "checkpoint"
    result = edgekiln("quantize", tiny_checkpoint, "-o", output, "--quant", "int4", "--group-size", "64")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{output}: tiny-llama int4 for transformers and vLLM, ")
    tensors = load_file(output / "model.safetensors")
    assert tensors["model.layers.0.mlp.down_proj.weight_scale"].shape == (64, 128 // 64)
    built = edgekiln("engine", output, "-o", tmp_path / "engine", "--quant", "int4", "--json")
    assert built.exit_code == 0, built.output
    assert json.loads(built.stdout)["notes"] == []
    layers = json.loads((tmp_path / "engine" / "quantization.json").read_text())["layers"]
    assert layers["model.layers.0.mlp.down_proj"]["group_size"] == 64, "the checkpoint's quantization is kept"


def test_json_and_a_recipe(tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("default: {bits: 8, group_size: 32, symmetric: false}\n")
    result = edgekiln("quantize", tiny_checkpoint, "-o", tmp_path / "out", "--recipe", recipe, "--json")
    assert result.exit_code == 0, result.output
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert json.loads(result.stdout) == {"checkpoint": str(tmp_path / "out"), "bytes": size, "notes": []}
    assert json.loads((tmp_path / "out" / "quantization.json").read_text())["scheme"] == "recipe"


def test_failures(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("irreplaceable")
    for arguments, message in (
        (("no-such-model", "-o", tmp_path / "out"), "no model 'no-such-model'"),
        ((tiny_checkpoint, "-o", tmp_path / "out", "--quant", "none"), "nothing to quantize in tiny-llama"),
        ((tiny_checkpoint, "-o", tmp_path / "mine", "--quant", "int4"), "is not a checkpoint of `edgekiln quantize`"),
        ((tiny_checkpoint, "--quant", "int4"), "Missing option '-o'"),
    ):
        result = edgekiln("quantize", *arguments)
        assert result.exit_code == 2
        assert message in error_line(result)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_without_the_library(tiny_checkpoint: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['compressed_tensors'] = None\n"
        "from edgekiln.cli import main\n"
        f"main(['quantize', {str(tiny_checkpoint)!r}, '-o', {str(tmp_path / 'out')!r}, '--quant', 'int4'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("is not installed: `pip install 'edgekiln[calib]'`\n")
    assert len(without_steps(done.stderr)) == 1


def test_strict_refuses_layers_that_stay_in_floating_point(tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe, output = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text("default: {bits: 4, group_size: 32}\noverrides: [{match: '*.mlp.*', skip: true}]\n")
    result = edgekiln("quantize", tiny_checkpoint, "-o", output, "--recipe", recipe, "--strict")
    assert result.exit_code == 2
    line = error_line(result)
    assert "of the parameters stay in floating point: model.layers.*.mlp." in line
    assert "the recipe skips it" in line
    assert line.endswith("change the recipe or build without --strict")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    assert edgekiln("quantize", tiny_checkpoint, "-o", output, "--quant", "int4", "--strict").exit_code == 0
    result = edgekiln("quantize", tiny_checkpoint, "-o", output, "--recipe", recipe)
    assert "note: " in result.stderr
    assert "of the parameters stay in floating point" in result.stderr
