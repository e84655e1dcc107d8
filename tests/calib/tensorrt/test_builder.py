"""Plans of every family, built by the real tensorrt_rtx, and the errors where one cannot be built."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

trt = pytest.importorskip("tensorrt_rtx")

from edgekiln.calib.presets import UNCALIBRATED  # noqa: E402
from edgekiln.calib.tensorrt import builder, checks  # noqa: E402
from edgekiln.calib.tensorrt.options import TensorRTOptions  # noqa: E402
from edgekiln.engine.manifest import EngineManifest, TensorRTBuild, read_manifest  # noqa: E402
from edgekiln.errors import EdgekilnError, RequestError, UnsupportedModelError  # noqa: E402
from edgekiln.pipeline.assemble import canonical_graph, write_engine  # noqa: E402
from edgekiln.pipeline.build import build_engine  # noqa: E402
from edgekiln.pipeline.options import BuildOptions  # noqa: E402
from edgekiln.progress import StepTimer  # noqa: E402
from edgekiln.runtimes.tensorrt.library import load_library  # noqa: E402
from edgekiln.sources.base import ModelSource  # noqa: E402
from edgekiln.sources.resolve import resolve  # noqa: E402
from families.tiny import tiny_model  # noqa: E402
from support.models import FAMILY_NAMES, save_checkpoint, save_model  # noqa: E402

ADA = TensorRTOptions(capabilities=((8, 9),), chunk=32, max_batch=2)
LENGTH = 64
# Preset and KV cache.
IN_PLACE, GROWING = ("int4", "in-place"), ("int8", "growing")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama in 4 bits."""
    directory = tmp_path_factory.mktemp("built")
    save_checkpoint(directory / "model", "llama")
    options = BuildOptions(target="trt-rtx", quant="int4", max_length=LENGTH, tensorrt=ADA)
    build_engine(resolve(str(directory / "model")), directory / "engine", options)
    return directory / "engine"


def compiled(source: ModelSource, quant: str, directory: Path, **changes: Any) -> EngineManifest:
    """Build an engine without calibration, which takes longer than everything else here and gives the same graph."""
    chosen = TensorRTOptions(capabilities=((8, 9),), chunk=32, max_batch=2, **changes)
    recipe = None if quant == "int4" else UNCALIBRATED
    options = BuildOptions(target="trt-rtx", quant=quant, recipe=recipe, max_length=LENGTH, tensorrt=chosen)
    return write_engine(canonical_graph(source, options), source, directory, options, StepTimer())


# Families take turns, as each form compiles in the same way in all of them.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "quant", "cache"),
    [
        *((family, *(GROWING if index % 2 else IN_PLACE)) for index, family in enumerate(FAMILY_NAMES)),
        # Weights of experts have forms of their own.
        ("qwen3_moe", *IN_PLACE),
        ("gpt_oss", *GROWING),
    ],
)
def test_every_family_compiles(family: str, quant: str, cache: Any, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", family)
    (tmp_path / "engine").mkdir()
    manifest = compiled(resolve(str(tmp_path / "model")), quant, tmp_path / "engine", cache=cache)
    assert (manifest.kv_cache.layout, manifest.kv_cache.dtype) == (cache, "float16")
    assert manifest.tensorrt == TensorRTBuild(
        library="tensorrt_rtx", version=trt.__version__, compute_capabilities=["8.9"], max_batch=2, prefill_chunk=32
    )
    runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
    plan = (tmp_path / "engine" / manifest.graphs["plan"]).read_bytes()
    assert len(plan) > runtime.engine_header_size
    read_manifest(tmp_path / "engine")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "quant", "cache", "dtype"),
    [
        ("lfm2", *GROWING, "bfloat16"),
        ("mamba", *GROWING, "bfloat16"),
        ("qwen3_5_text", *IN_PLACE, "float16"),
        ("rwkv", *IN_PLACE, "float16"),
        ("falcon_h1", *GROWING, "bfloat16"),
    ],
)
def test_models_with_states_compile(model_type: str, quant: str, cache: Any, dtype: Any, tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny_model(model_type))
    (tmp_path / "engine").mkdir()
    manifest = compiled(resolve(str(tmp_path / "model")), quant, tmp_path / "engine", cache=cache, dtype=dtype)
    # States of convolutions have the type of activations, those of recurrences are float32.
    expected = {dtype} if model_type == "lfm2" else {dtype, "float32"}
    assert {state.dtype for state in manifest.kv_cache.states} == expected


def test_profiles_are_chunked_prefill_and_batched_decode() -> None:
    prefill, decode = builder.profile_shapes(TensorRTOptions(chunk=512, max_batch=3), 100)
    assert (prefill.batch, prefill.tokens) == (builder.Range(1, 1, 1), builder.Range(1, 100, 100))
    assert (decode.batch, decode.tokens) == (builder.Range(1, 1, 3), builder.Range(1, 1, 1))
    assert prefill.past == decode.past == builder.Range(0, 50, 99)


def build(graph: Path, options: TensorRTOptions, engine_directory: Path) -> TensorRTBuild:
    manifest = read_manifest(engine_directory)
    return builder.build_plan(graph, "trt-rtx", options, manifest, graph.with_suffix(".plan"))


@pytest.mark.parametrize("flag", ["strip_weights", "refit"])
def test_options_that_need_a_gpu_say_so_without_one(
    built: Path, tmp_path: Path, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(extra: str) -> None:
        raise EdgekilnError(f"no GPU for {extra}")

    monkeypatch.setattr("edgekiln.runtimes.cuda.cuda_device.open_device", none)
    options = TensorRTOptions(capabilities=((8, 6),), **{flag: True})
    manifest = read_manifest(built)
    with pytest.raises(EdgekilnError) as caught:
        builder.build_plan(built / "generate.onnx", "trt-rtx", options, manifest, tmp_path / "plan")
    assert str(caught.value) == "--refit and --strip-weights compile on a GPU only (no GPU for trt-rtx): leave them out"


def test_a_small_workspace_is_enough_for_a_small_model(built: Path, tmp_path: Path) -> None:
    options = TensorRTOptions(capabilities=((8, 9),), workspace_mb=100)
    made = builder.build_plan(built / "generate.onnx", "trt-rtx", options, read_manifest(built), tmp_path / "plan")
    assert made.compute_capabilities == ["8.9"]
    assert not made.weight_stripped


def test_networks_are_strongly_typed_in_every_release() -> None:
    log = load_library("trt-rtx").log
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    for version in ("10.13.0", trt.__version__):
        network = trt.Builder(log).create_network(builder.network_flags(trt, version))
        assert network.get_flag(flag)
    assert builder.network_flags(trt, "11.2.0.1") == 0
    assert builder.network_flags(SimpleNamespace(NetworkDefinitionCreationFlag=object), "10.13.0") == 0


def test_one_plan_for_several_gpus(built: Path, tmp_path: Path) -> None:
    made = builder.build_plan(
        built / "generate.onnx", "trt-rtx", TensorRTOptions(), read_manifest(built), tmp_path / "plan"
    )
    assert made.compute_capabilities == ["8.0", "8.6", "8.9", "12.0"]
    assert (made.max_batch, made.prefill_chunk, made.options) == (4, LENGTH, [])


def test_an_unsupported_compute_capability_is_named(built: Path) -> None:
    with pytest.raises(RequestError) as caught:
        build(built / "generate.onnx", TensorRTOptions(capabilities=((9, 0),)), built)
    assert str(caught.value) == (
        f"tensorrt_rtx {trt.__version__} does not compile for compute capability 9.0: "
        "--sm takes 75, 80, 86, 89, 120, 121"
    )


def test_options_are_checked_before_the_model_is_calibrated_or_traced(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekiln.pipeline.build.calibrated", lambda *_: pytest.fail("it was calibrated"))
    monkeypatch.setattr("edgekiln.pipeline.assemble.canonical_graph", lambda *_: pytest.fail("it was traced"))
    options = BuildOptions(target="trt-rtx", quant="int8", tensorrt=TensorRTOptions(capabilities=((9, 0),)))
    with pytest.raises(RequestError, match=r"does not compile for compute capability 9\.0"):
        build_engine(resolve(str(tiny_checkpoint)), tmp_path / "engine", options)
    assert not (tmp_path / "engine").exists()


def test_an_op_that_the_parser_rejects_is_named(built: Path, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Kiln", ["x"], ["y"], "fire", domain="pottery")], "g", [x], [y])
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("pottery", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "g.onnx")
    with pytest.raises(
        UnsupportedModelError, match=r"^tensorrt_rtx's parser rejects the graph.*Kiln.*ort-cuda$"
    ) as caught:
        build(tmp_path / "g.onnx", ADA, built)
    assert "\n" not in str(caught.value)


def parsed(graph: Path) -> Any:
    """The network of an ONNX file, and its parser, which has to live as long as the network."""
    log = load_library("trt-rtx").log
    network = trt.Builder(log).create_network()
    parser = trt.OnnxParser(network, log)
    assert parser.parse_from_file(str(graph))
    return network, parser


def test_weights_that_the_network_does_not_dequantize_are_named(built: Path) -> None:
    network, _parser = parsed(built / "generate.onnx")
    size = checks.check_network(built / "generate.onnx", network, trt)
    assert size.packed < size.unpacked
    empty = trt.Builder(load_library("trt-rtx").log).create_network()
    with pytest.raises(UnsupportedModelError, match=r"^quantized weights came out unquantized: .* and \d+ more; use"):
        checks.check_network(built / "generate.onnx", empty, trt)


def test_a_plan_as_large_as_without_quantization_is_refused() -> None:
    size = checks.WeightBytes(packed=10**9, unpacked=4 * 10**9)
    checks.check_size(11 * 10**8, size)
    with pytest.raises(UnsupportedModelError, match=r"^the plan has 4000 MB where quantized weights take 1000"):
        checks.check_size(4 * 10**9, size)


def test_bytes_of_weights_are_those_of_the_file(built: Path) -> None:
    model = ir.load(built / "generate.onnx")
    network, _parser = parsed(built / "generate.onnx")
    size = checks.check_network(built / "generate.onnx", network, trt)
    assert size.packed == sum(len(value.const_value.tobytes()) for value in model.graph.initializers.values())  # type: ignore[union-attr]


def test_without_polygraphy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "polygraphy" else real(name))
    with pytest.raises(EdgekilnError, match=r"needs the module polygraphy: pip install 'edgekiln\[trt-rtx\]'"):
        builder.compiler("trt-rtx")


def test_a_process_compiles_with_one_library(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder.compiler("trt-rtx")
    __import__("polygraphy.backend.trt")
    monkeypatch.setattr(builder, "load_library", lambda _: SimpleNamespace(name="tensorrt"))
    with pytest.raises(EdgekilnError, match=r"^this process has compiled with another library: build for trt in a new"):
        builder.compiler("trt")


def test_tensorrt_without_a_gpu_or_libraries_says_so_in_one_sentence(tmp_path: Path, built: Path) -> None:
    with pytest.raises(EdgekilnError) as caught:
        builder.build_plan(built / "generate.onnx", "trt", TensorRTOptions(), read_manifest(built), tmp_path / "p")
    assert "\n" not in str(caught.value)
    assert "pip install" in str(caught.value) or "--target trt-rtx" in str(caught.value)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "Cuda Runtime (out of memory)",
            "tensorrt_rtx ran out of memory while building (Cuda Runtime (out of memory)):",
        ),
        ("Could not find any implementation for node x", "tensorrt_rtx cannot build the engine (Could not find any"),
    ],
)
def test_the_error_gives_the_reason_that_the_builder_logs(said: str, message: str) -> None:
    library = load_library("trt-rtx")
    library.errors.clear()
    library.log.log(trt.ILogger.Severity.ERROR, said)
    assert builder._build_error(library, RuntimeError("Invalid Engine")).startswith(message)
    library.errors.clear()
    assert "Invalid Engine" in builder._build_error(library, RuntimeError("Invalid Engine"))
