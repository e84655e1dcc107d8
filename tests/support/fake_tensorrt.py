"""A fake TensorRT whose plans are lowered ONNX graphs, run by ONNX Runtime on the memory of a fake device.

Methods and parameters have the names of the real package; `test_library.py` compares them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import tensorrt_rtx as trt

from edgekiln.engine.manifest import KVCacheSpec, TensorRTBuild, read_manifest, write_manifest
from edgekiln.export.lower import tensorrt
from edgekiln.pipeline.assemble import canonical_graph, write_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.progress import StepTimer
from edgekiln.runtimes.cuda.cuda_device import CudaDevice
from edgekiln.runtimes.tensorrt.library import MODULES, TensorRTLibrary
from edgekiln.runtimes.tensorrt.runtime import TensorRTRuntime
from edgekiln.sources.base import ModelSource
from support.fake_cuda import FakeCuda

PLAN = "generate.plan"


class FakeRuntimeConfig:
    """IRuntimeConfig."""

    def __init__(self) -> None:
        self._strategy: Any = trt.ExecutionContextAllocationStrategy.STATIC
        self._graphs: Any = trt.CudaGraphStrategy.DISABLED

    def set_execution_context_allocation_strategy(self, strategy):
        self._strategy = trt.ExecutionContextAllocationStrategy(strategy)

    @property
    def cuda_graph_strategy(self):
        return self._graphs

    @cuda_graph_strategy.setter
    def cuda_graph_strategy(self, value):
        self._graphs = trt.CudaGraphStrategy(value)


class FakeExecutionContext:
    """IExecutionContext: shapes and addresses are taken when a run is queued, memory is read when it executes."""

    def __init__(self, engine: "FakeEngine") -> None:
        self._engine = engine
        self._profile: dict[str, tuple] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index, stream_handle):
        assert stream_handle in self._engine._cuda.streams
        if profile_index >= self._engine.num_optimization_profiles:
            return False
        self._profile = self._engine._profiles[profile_index]
        return True

    def set_input_shape(self, name, shape):
        least, _, most = self._profile[name]
        shape = tuple(shape)
        ok = len(shape) == len(least) and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        if ok:
            self._shapes[name] = shape
        return ok

    def set_tensor_address(self, name, memory):
        assert name in self._engine._types
        if memory % 256:
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        engine, shapes, addresses = self._engine, dict(self._shapes), dict(self._addresses)
        if set(addresses) != set(engine._types) or set(shapes) != set(engine._inputs):
            return False
        for present, past in engine._aliases.items():
            assert addresses[present] == addresses[past]
        engine._runs.append(shapes)
        engine._cuda.queue(stream_handle, lambda: engine._compute(shapes, addresses))
        return True


class FakeEngine:
    """ICudaEngine.

    Args:
        graph: a lowered float32 graph.
        ranges: largest batch size and tokens per sequence of each optimization profile.
        max_length: longest past of a growing cache.
        in_place: whether present outputs are aliases of past inputs.
    """

    def __init__(
        self, graph: bytes, cuda: FakeCuda, ranges: list[tuple[int, int]], max_length: int, in_place: bool
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._cuda = cuda
        values = onnx.load_from_string(graph).graph
        self._inputs = [value.name for value in values.input]
        self._types = {value.name: value.type.tensor_type for value in (*values.input, *values.output)}
        parts = [name for name in self._inputs if name.startswith("past.")]
        self._aliases = {name.replace("past", "present", 1): name for name in parts} if in_place else {}
        self._runs: list[dict[str, tuple[int, ...]]] = []
        self._configs: list[Any] = []
        self._profiles = []
        for batch, tokens in ranges:
            profile = {}
            for name in self._inputs:
                static = self._shape(name)
                least, most = [
                    tuple(
                        size if size != -1 else (sequences if axis == 0 else past if len(static) == 4 else new)
                        for axis, size in enumerate(static)
                    )
                    for sequences, past, new in ((1, 0, 1), (batch, max_length, tokens))
                ]
                profile[name] = (least, most, most)
            self._profiles.append(profile)

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in self._types[name].shape.dim)

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        feeds = {}
        for name in self._inputs:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self._types[name].elem_type))
            size = int(np.prod(shapes[name])) * dtype.itemsize
            feeds[name] = self._cuda.view(addresses[name], size).view(dtype).reshape(shapes[name]).copy()
        outputs = [value.name for value in self._session.get_outputs()]
        for name, result in zip(outputs, self._session.run(outputs, feeds), strict=True):
            self._cuda.view(addresses[name], result.nbytes)[:] = np.ascontiguousarray(result).reshape(-1).view(np.uint8)

    @property
    def num_io_tensors(self):
        return len(self._types)

    @property
    def num_optimization_profiles(self):
        return len(self._profiles)

    def get_tensor_name(self, index):
        return list(self._types)[index]

    def get_tensor_shape(self, name):
        return trt.Dims(self._shape(name))

    def get_tensor_dtype(self, name):
        kinds = {
            onnx.TensorProto.FLOAT: trt.DataType.FLOAT,
            onnx.TensorProto.FLOAT16: trt.DataType.HALF,
            onnx.TensorProto.INT64: trt.DataType.INT64,
        }
        return kinds[self._types[name].elem_type]

    def get_tensor_profile_shape(self, name, profile_index):
        return [trt.Dims(shape) for shape in self._profiles[profile_index][name]]

    def get_aliased_input_tensor(self, name):
        return self._aliases.get(name)

    def create_runtime_config(self):
        return FakeRuntimeConfig()

    def create_execution_context(self, strategy):
        self._configs.append(strategy)
        return FakeExecutionContext(self)


class FakeLibrary(TensorRTLibrary):
    """The real package, except that plans are deserialized to a `FakeEngine`, because the real engine needs a GPU."""

    def __init__(
        self, target: str, cuda: FakeCuda, ranges: list[tuple[int, int]], max_length: int, in_place: bool
    ) -> None:
        super().__init__(target, trt)
        self.engine: Any = None
        self._engine_arguments = (cuda, ranges, max_length, in_place)

    def deserialize(self, path: Path, weights: Path | None = None) -> Any:
        assert weights is None
        self.engine = FakeEngine(path.read_bytes(), *self._engine_arguments)
        return self.engine


def write_tensorrt_engine(
    source: ModelSource,
    directory: Path,
    target: str,
    layout: str,
    max_batch: int,
    chunk: int,
    max_length: int | None = None,
):
    """Build a float32 engine at `directory` whose plan is the lowered graph, with that KV cache layout."""
    options = BuildOptions(quant="none", max_length=max_length)
    canonical = canonical_graph(source, options)
    graph = canonical.graph.clone()
    directory.mkdir(parents=True)
    manifest = write_engine(canonical, source, directory, options, StepTimer())
    form = tensorrt.GraphOptions(
        capacity=manifest.architecture.max_length if layout == "in-place" else None,
        dtype="float32",
        fused_attention=layout == "in-place",
    )
    tensorrt.lower(graph, form)
    import onnx_ir as ir

    (directory / PLAN).write_bytes(ir.to_proto(graph).SerializeToString())
    fields = manifest.model_dump(exclude={"files"}) | {
        "target": target,
        "graphs": {"plan": PLAN},
        "kv_cache": KVCacheSpec(layout=layout, dtype="float32", states=manifest.kv_cache.states),  # type: ignore[arg-type]
        "tensorrt": TensorRTBuild(
            library=MODULES[target][0],  # type: ignore[arg-type]
            version=trt.__version__,
            compute_capabilities=["8.9"],
            max_batch=max_batch,
            prefill_chunk=chunk,
        ),
    }
    return write_manifest(directory, **fields)


def open_on_host(
    directory: Path, cuda: FakeCuda | None = None, cuda_graph: bool = True, chunk: int | None = None
) -> tuple[TensorRTRuntime, FakeCuda, FakeLibrary]:
    """Open an engine with the fakes. The plan has one optimization profile for prefill and one for decode."""
    manifest = read_manifest(directory)
    cuda = cuda or FakeCuda()
    build = manifest.tensorrt
    assert build is not None
    ranges = [(1, build.prefill_chunk), (build.max_batch, 1)]
    library = FakeLibrary(
        manifest.target, cuda, ranges, manifest.architecture.max_length, manifest.kv_cache.layout == "in-place"
    )
    device = CudaDevice(cuda)
    runtime = TensorRTRuntime(directory, manifest, chunk=chunk, cuda_graph=cuda_graph, library=library, device=device)
    return runtime, cuda, library
