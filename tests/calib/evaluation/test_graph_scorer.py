"""Graphs of all targets, scored on the CPU, against the engine of ort-cpu; and `compare`."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.calib.evaluation.compare import Side, compare, first_apart
from edgekiln.calib.evaluation.graph_scorer import graph_scorer
from edgekiln.calib.tensorrt.options import TensorRTOptions
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import EdgekilnError, EngineError, RequestError
from edgekiln.export.lower import tensorrt
from edgekiln.pipeline.assemble import canonical_graph, write_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.progress import StepTimer
from edgekiln.sources.resolve import resolve
from support.command import edgekiln
from support.models import VOCABULARY, save_checkpoint

LENGTH = 40
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, 24)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A gemma3 with every kind of graph. It has sliding windows, two rotary frequencies and QK norms."""
    directory = tmp_path_factory.mktemp("engines")
    save_checkpoint(directory / "model", "gemma3_text")
    source = resolve(str(directory / "model"))
    found = {"model": directory / "model"}

    def write(name: str, options: BuildOptions) -> None:
        (directory / name).mkdir()
        write_engine(canonical_graph(source, options), source, directory / name, options, StepTimer())
        found[name] = directory / name

    write("ort-cpu", BuildOptions(quant="none", max_length=LENGTH))
    write("int4", BuildOptions(quant="int4", max_length=LENGTH))
    write("ort-cuda", BuildOptions(target="ort-cuda", quant="none", max_length=LENGTH))
    with pytest.MonkeyPatch.context() as patch:
        # Without compiling plans, since only the graph is scored.
        patch.setattr(tensorrt, "LOWERING", replace(tensorrt.LOWERING, check=lambda _: None, compile=None))
        for cache in ("in-place", "growing"):
            for dtype in ("float16", "bfloat16"):
                chosen = TensorRTOptions(cache=cache, dtype=dtype)
                write(f"{cache}-{dtype}", BuildOptions(target="trt", quant="none", max_length=LENGTH, tensorrt=chosen))
    return found


@pytest.mark.parametrize("name", ["ort-cuda", "in-place-float16", "growing-float16"])
def test_scores_are_those_of_ort_cpu_in_half_precision(engines: dict[str, Path], name: str) -> None:
    expected = runtimes.open(engines["ort-cpu"]).score(TOKENS)
    score = graph_scorer(engines[name], read_manifest(engines[name]))
    for tokens in (TOKENS, TOKENS[:7], TOKENS):
        logits = score(tokens)
        assert logits.dtype == np.float32
        assert np.linalg.norm(logits - expected[: len(tokens)]) < 0.02 * np.linalg.norm(expected[: len(tokens)])


def test_bfloat16_is_refused_with_the_fix(engines: dict[str, Path]) -> None:
    with pytest.raises(EdgekilnError, match=r"^ONNX Runtime has no CPU kernels for bfloat16: build .*--dtype float16"):
        graph_scorer(engines["in-place-bfloat16"], read_manifest(engines["in-place-bfloat16"]))


def test_scoring_works_without_onnx(engines: dict[str, Path]) -> None:
    program = (
        "import sys; sys.modules['onnx'] = None\n"
        "import numpy as np, pathlib; from edgekiln.engine.manifest import read_manifest\n"
        "from edgekiln.calib.evaluation.graph_scorer import graph_scorer\n"
        "engine = pathlib.Path(sys.argv[1]); score = graph_scorer(engine, read_manifest(engine))\n"
        "print(score(np.arange(3)).shape)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(engines["ort-cuda"])], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"(3, {VOCABULARY})\n"


def test_a_graph_that_onnxruntime_rejects_is_named(engines: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "score.onnx").write_bytes(b"nothing")
    with pytest.raises(EngineError, match=r"cannot load .*score\.onnx"):
        graph_scorer(tmp_path, read_manifest(engines["ort-cpu"]))


def test_eval_measures_an_engine_whose_target_does_not_run_here(engines: dict[str, Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A kiln is an oven. " * 10, encoding="utf-8")
    common = ("--text", text, "--window", "20", "--json")
    cpu = json.loads(edgekiln("eval", engines["ort-cpu"], "--on-cpu", *common).stdout)
    cuda = edgekiln("eval", engines["ort-cuda"], "--on-cpu", *common)
    assert cuda.exit_code == 0, cuda.output
    assert json.loads(cuda.stdout)["perplexity"] == pytest.approx(cpu["perplexity"], rel=0.02)
    assert edgekiln("eval", engines["ort-cuda"], *common).exit_code == 2


def side(engine: Path) -> Side:
    return Side(engine, read_manifest(engine))


@pytest.mark.parametrize("name", ["ort-cuda", "in-place-float16", "growing-float16"])
def test_targets_of_one_model_differ_by_rounding(engines: dict[str, Path], name: str) -> None:
    found = compare(side(engines[name]), side(engines["ort-cpu"]), TOKENS, layers=True)
    assert found[-1].name.startswith("present.")
    names = [row.name for row in found]
    layers = side(engines["ort-cpu"]).manifest.architecture.layers
    assert "logits" in names
    assert sum(name.startswith("present.") for name in names) == 2 * layers
    assert len(names) > 2 * layers + 1, "nothing in between was compared"
    for row in found:
        assert row.relative < 0.02
        assert row.cosine > 0.999
    assert first_apart(found, 0.02) is None


def test_differences_are_those_of_numpy(engines: dict[str, Path]) -> None:
    ours, theirs = (graph_scorer(engines[name], read_manifest(engines[name]))(TOKENS) for name in ("int4", "ort-cpu"))
    (row,) = [row for row in compare(side(engines["int4"]), side(engines["ort-cpu"]), TOKENS) if row.name == "logits"]
    assert row.absolute == pytest.approx(np.abs(ours - theirs).max(), rel=1e-4)
    assert row.relative == pytest.approx(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs), rel=1e-4)
    cosine = (ours * theirs).sum() / np.linalg.norm(ours) / np.linalg.norm(theirs)
    assert row.cosine == pytest.approx(cosine, rel=1e-4)


def test_the_first_differing_layer_is_a_quantized_one(engines: dict[str, Path]) -> None:
    found = compare(side(engines["int4"]), side(engines["ort-cpu"]), TOKENS, layers=True)
    # The 8-bit embedding comes before the 4-bit layers.
    rounded, apart = first_apart(found, 1e-3), first_apart(found, 0.02)
    assert rounded is not None
    assert apart is not None
    assert found.index(rounded) < found.index(apart)
    assert "layers.0" in apart.name or ".0." in apart.name


def test_the_command_takes_a_model_as_reference(engines: dict[str, Path]) -> None:
    result = edgekiln("compare", engines["int4"], engines["model"], "-p", "hello there", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["tokens"] > 3
    assert told["first_apart"] is not None
    shown = edgekiln("compare", engines["ort-cpu"], engines["model"], "-p", "hello", "--layers", "--tolerance", "1e-3")
    assert shown.exit_code == 0, shown.output
    assert "nothing is apart by more than 0.001" in shown.stdout
    assert edgekiln("compare", engines["int4"], engines["model"], "-p", "hello", "--tolerance", "1e-3").exit_code == 1


def test_engines_of_two_models_are_refused(engines: dict[str, Path], tiny_engine: Path) -> None:
    with pytest.raises(RequestError, match="compare engines of one model"):
        compare(side(tiny_engine), side(engines["ort-cpu"]), TOKENS)
    with pytest.raises(RequestError, match=r"^prompt has 41 tokens, the engines hold 40"):
        compare(side(engines["int4"]), side(engines["ort-cpu"]), np.zeros(41, np.int64))
    result = edgekiln("compare", tiny_engine, engines["model"].parent)
    assert result.exit_code == 2
    assert "is neither an engine nor a model" in result.stderr


def test_without_polygraphy_it_is_named(engines: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EdgekilnError, match=r"^comparing needs the module polygraphy: pip install polygraphy"):
        compare(side(engines["int4"]), side(engines["ort-cpu"]), TOKENS)
