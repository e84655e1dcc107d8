"""Commands on targets trt and trt-rtx, with the real tensorrt_rtx: build and inspect, with or without a GPU."""

import json
from pathlib import Path

import pytest

trt = pytest.importorskip("tensorrt_rtx")

from edgekiln.engine.manifest import TensorRTBuild, read_manifest  # noqa: E402
from edgekiln.system import detect  # noqa: E402
from support.command import edgekiln, error_line  # noqa: E402

HAS_GPU = bool(detect().gpus)


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("engine") / "engine"
    result = edgekiln(
        *("engine", tiny_checkpoint, "-o", output, "--target", "trt-rtx", "--quant", "int4", "--sm", "86,8.9"),
        *("--max-length", "64", "--chunk", "16", "--max-batch", "2", "--json"),
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["target"] == "trt-rtx"
    assert report["steps"]["compile"] > 0
    assert report["peak_rss_mb"] > 0
    return output


def test_the_engine_has_the_plan_and_its_graph(engine: Path) -> None:
    manifest = read_manifest(engine)
    assert manifest.graphs == {"generate": "generate.onnx", "score": "score.onnx", "plan": "generate.plan"}
    assert manifest.tensorrt == TensorRTBuild(
        library="tensorrt_rtx",
        version=trt.__version__,
        compute_capabilities=["8.6", "8.9"],
        max_batch=2,
        prefill_chunk=16,
    )


def test_inspect_shows_the_plan(engine: Path) -> None:
    shown = edgekiln("inspect", engine)
    assert shown.exit_code == 0, shown.output
    assert f"tensorrt_rtx {trt.__version__} for compute capability 8.6, 8.9" in shown.stdout
    assert "prefill  1 to 1 sequences of 1 to 16 tokens" in shown.stdout
    assert "decode   1 to 2 sequences of 1 to 1 tokens" in shown.stdout
    told = json.loads(edgekiln("inspect", engine, "--json").stdout)
    assert told["plan"]["profiles"][1]["batch"] == [1, 2]
    assert "DequantizeLinear" in told["ops"]["generate"]
    assert "plan" not in told["ops"]
    if not HAS_GPU:
        assert "GPU" in told["plan"]["not_opened"]


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_run_without_a_gpu(engine: Path) -> None:
    assert "needs an NVIDIA GPU and its driver" in error_line(edgekiln("run", engine, "-p", "hello"))


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_doctor_exit_status_for_a_target() -> None:
    result = edgekiln("doctor", "--target", "trt-rtx")
    assert result.exit_code == 1
    assert result.stdout.startswith("engines of trt-rtx do not run here: ")
    assert edgekiln("doctor", "--target", "ort-cpu").exit_code == 0
    assert "target must be one of ort-cpu" in error_line(edgekiln("doctor", "--target", "cpu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "trt-rtx", "--sm", "ada"), "sm takes compute capabilities such as 86,89,120, got 'ada'"),
        (("--target", "trt-rtx", "--sm", "90"), "does not compile for compute capability 9.0: --sm takes 75, 80"),
        (("--target", "ort-cpu", "--sm", "89"), "options of TensorRT are for targets trt and trt-rtx, not ort-cpu"),
        (("--target", "trt-rtx", "--kv", "int8"), "kv int8 is for target ort-cpu, not trt-rtx"),
    ],
)
def test_bad_options(tiny_checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = edgekiln("engine", tiny_checkpoint, "-o", tmp_path / "engine", "--quant", "int4", *arguments)
    assert message in error_line(result)
    assert list(tmp_path.iterdir()) == []
