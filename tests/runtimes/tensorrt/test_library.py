"""TensorRTLibrary with the real package tensorrt_rtx, as far as possible without a GPU; the fakes compared with it."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

trt = pytest.importorskip("tensorrt_rtx")
runtime = pytest.importorskip("cuda.bindings.runtime")

from edgekiln import runtimes  # noqa: E402
from edgekiln.engine.manifest import read_manifest, write_manifest  # noqa: E402
from edgekiln.errors import EdgekilnError, EngineError  # noqa: E402
from edgekiln.runtimes.cuda.cuda_device import CudaDevice  # noqa: E402
from edgekiln.runtimes.tensorrt.library import TensorRTLibrary, load_library  # noqa: E402
from edgekiln.runtimes.tensorrt.runtime import TensorRTRuntime  # noqa: E402
from edgekiln.sources.resolve import resolve  # noqa: E402
from support import fake_tensorrt  # noqa: E402
from support.fake_cuda import FakeCuda  # noqa: E402
from support.models import save_checkpoint  # noqa: E402

HAS_GPU = runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess
NO_GPU = pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
FAKES = {
    fake_tensorrt.FakeEngine: trt.ICudaEngine,
    fake_tensorrt.FakeExecutionContext: trt.IExecutionContext,
    fake_tensorrt.FakeRuntimeConfig: trt.IRuntimeConfig,
}
USED = [(fake, name) for fake in FAKES for name in vars(fake) if not name.startswith("_")]


@pytest.mark.parametrize(("fake", "name"), USED, ids=lambda value: getattr(value, "__name__", value))
def test_fakes_have_the_methods_and_parameters_of_the_package(fake: type, name: str) -> None:
    real, ours = getattr(FAKES[fake], name), vars(fake)[name]
    if isinstance(ours, property):
        assert isinstance(real, property)
        assert (real.fset is None) <= (ours.fset is None)
        return
    signatures = re.findall(rf"^(?:\d+\. )?{name}\(self: [^,)]+(?:, (.*?))?\) ->", real.__doc__, re.MULTILINE)
    names = [re.findall(r"(?:^|, )(\w+): ", arguments) for arguments in signatures]
    assert list(inspect.signature(ours).parameters)[1:] in names


def engine_of(plan: bytes, directory: Path, version: str = trt.__version__, capability: str = "8.9") -> Path:
    """An engine directory for trt-rtx with the given plan."""
    save_checkpoint(directory / "model", "llama")
    engine = directory / "engine"
    source = resolve(str(directory / "model"))
    manifest = fake_tensorrt.write_tensorrt_engine(source, engine, "trt-rtx", "in-place", 2, 16)
    (engine / fake_tensorrt.PLAN).write_bytes(plan)
    assert manifest.tensorrt is not None
    build = manifest.tensorrt.model_copy(update={"version": version, "compute_capabilities": [capability]})
    write_manifest(engine, **manifest.model_dump(exclude={"files", "tensorrt"}), tensorrt=build)
    return engine


def open_with_the_real_library(engine: Path, capability: tuple[int, int] = (8, 9)) -> None:
    device = CudaDevice(FakeCuda(capability))
    TensorRTRuntime(engine, read_manifest(engine), library=load_library("trt-rtx"), device=device)


def test_a_damaged_plan_is_refused_with_the_librarys_message(
    tmp_path: Path, capfd: pytest.CaptureFixture, subtests: pytest.Subtests
) -> None:
    engine = engine_of(b"not a plan" * 100, tmp_path)
    capfd.readouterr()
    with pytest.raises(EngineError) as caught:
        open_with_the_real_library(engine)
    message = str(caught.value)
    assert re.match(
        r"tensorrt_rtx [\d.]+ cannot load the plan \(IRuntime::deserializeCudaEngine: .*Serialization", message
    )
    assert message.endswith("): build the engine again")
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_a_plan_of_another_version(tmp_path: Path) -> None:
    engine = engine_of(b"not a plan", tmp_path, version="1.1.0")
    expected = (
        rf"^the plan was built with tensorrt_rtx 1\.1\.0, this machine has {re.escape(trt.__version__)}: "
        r"build the engine again here, or install tensorrt_rtx 1\.1\.0$"
    )
    with pytest.raises(EngineError, match=expected):
        open_with_the_real_library(engine)


def test_a_plan_for_another_gpu(tmp_path: Path) -> None:
    engine = engine_of(b"not a plan", tmp_path, capability="8.6")
    expected = (
        r"^the plan was built for compute capability 8\.6, this GPU has 12\.0: build the engine with --sm 12\.0, or"
    )
    with pytest.raises(EngineError, match=expected):
        open_with_the_real_library(engine, (12, 0))


@NO_GPU
def test_without_a_gpu(tmp_path: Path) -> None:
    engine = engine_of(b"not a plan", tmp_path)
    with pytest.raises(EdgekilnError, match=r"^running this engine needs an NVIDIA GPU and its driver: CUDA says "):
        runtimes.open(engine)


@pytest.mark.slow
@NO_GPU
def test_a_real_plan_is_refused_only_for_lack_of_a_driver(tmp_path: Path) -> None:
    engine = engine_of(build_plan(tmp_path / "plan"), tmp_path)
    with pytest.raises(EngineError, match=r"cannot load the plan \(.*CUDA driver version is insufficient"):
        open_with_the_real_library(engine)


def build_plan(directory: Path) -> bytes:
    """Compile a tiny float16 model with the real library for compute capability 8.9."""
    import onnx_ir as ir

    from edgekiln.export.lower import tensorrt
    from edgekiln.pipeline.assemble import canonical_graph
    from edgekiln.pipeline.options import BuildOptions

    save_checkpoint(directory, "llama")
    graph = canonical_graph(resolve(str(directory)), BuildOptions(quant="none")).graph
    tensorrt.lower(graph, tensorrt.GraphOptions(capacity=64))
    builder = trt.Builder(load_library("trt-rtx").log)
    network = builder.create_network()
    assert trt.OnnxParser(network, load_library("trt-rtx").log).parse(ir.to_proto(graph).SerializeToString())
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        least = [1 if size == -1 else size for size in tensor.shape]
        most = [16 if size == -1 and axis == 1 else 1 if size == -1 else size for axis, size in enumerate(tensor.shape)]
        profile.set_shape(tensor.name, least, most, most)
    config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))


def test_execution_contexts_use_the_real_enumerations() -> None:
    class Engine(fake_tensorrt.FakeEngine):
        def __init__(self) -> None:
            self._configs = []

        def create_execution_context(self, strategy):
            self._configs.append(strategy)

    for target, config in (
        ("trt", trt.ExecutionContextAllocationStrategy),
        ("trt-rtx", fake_tensorrt.FakeRuntimeConfig),
    ):
        engine = Engine()
        for replay, kind in ((False, trt.ExecutionContextAllocationStrategy), (True, config)):
            with pytest.raises(EdgekilnError, match=r"made no execution context: it does not say why$"):
                TensorRTLibrary(target, trt).make_context(engine, replay)
            assert isinstance(engine._configs[-1], kind)


@pytest.mark.parametrize(("target", "module"), [("trt", "tensorrt"), ("trt-rtx", "tensorrt_rtx")])
def test_a_missing_package_names_the_extra(
    target: str, module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load_library.cache_clear()
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    expected = rf"^target {target} needs the module {module}: pip install 'edgekiln\[{target}\]'$"
    with pytest.raises(EdgekilnError, match=expected):
        load_library(target)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('libraries come from elsewhere\\nand more')", "libraries come from elsewhere"),
        ("import a_module_it_needs", "No module named 'a_module_it_needs'"),
    ],
)
def test_a_package_that_cannot_be_loaded(
    text: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tensorrt.py").write_text(text)
    load_library.cache_clear()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    expected = (
        rf"^the module tensorrt is installed but cannot be loaded \({reason}\): pip install --force-reinstall 'edg"
    )
    with pytest.raises(EdgekilnError, match=expected):
        load_library("trt")


def test_the_bindings_package_alone_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    """tensorrt_rtx_bindings works without the meta-package tensorrt_rtx."""
    load_library.cache_clear()
    spec = sys.modules["tensorrt_rtx_bindings"]
    real = __import__("importlib").import_module

    def without(name: str):
        if name == "tensorrt_rtx":
            raise ModuleNotFoundError("no", name=name)
        return real(name)

    monkeypatch.setattr("edgekiln.runtimes.tensorrt.library.importlib.import_module", without)
    library = load_library("trt-rtx")
    load_library.cache_clear()
    assert (library.name, library.version, library.module) == ("tensorrt_rtx", trt.__version__, spec)


def test_the_adapter_imports_no_gpu_library() -> None:
    heavy = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "cuda", "onnxruntime", "torch", "onnx")
    script = f"import sys, edgekiln.runtimes.tensorrt.runtime; print(*(set({heavy!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == ""


def test_the_log_keeps_the_first_errors() -> None:
    library = TensorRTLibrary("trt-rtx", trt)
    severity = trt.ILogger.Severity
    assert library.last_errors() == "it does not say why"
    for number in range(20):
        library.log.log(severity.WARNING, f"warning {number}")
        library.log.log(severity.ERROR, f"error {number}\nand more")
    assert library.last_errors() == "error 0"
    assert len(library.log.errors) < 20


def test_ids_have_the_type_of_the_plans_inputs() -> None:
    assert np.dtype(trt.nptype(trt.DataType.INT64)) == np.dtype(np.int64)


def test_the_refitter_exists() -> None:
    assert re.search(r"refit_from_file\(self: [^,)]+, model: str", trt.OnnxParserRefitter.refit_from_file.__doc__)
    assert callable(trt.Refitter.refit_cuda_engine)
