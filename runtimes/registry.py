"""From the target an engine was built for to the adapter that runs it."""

import contextlib
import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgekiln.engine.manifest import EngineManifest, read_manifest, verify_files
from edgekiln.errors import EdgekilnError, EngineError
from edgekiln.runtimes.base import Runtime

# target -> (adapter "module:class", extra that installs what it needs); imported only when an engine asks for it
ADAPTERS = {
    "ort-cpu": ("edgekiln.runtimes.ort.cpu:OrtCpuRuntime", "cpu"),
    "ort-cuda": ("edgekiln.runtimes.ort.cuda:OrtCudaRuntime", "gpu"),
    "trt": ("edgekiln.runtimes.tensorrt:TensorRTRuntime", "trt"),
    "trt-rtx": ("edgekiln.runtimes.tensorrt:TensorRTRuntime", "trt-rtx"),
}
_LARGE = 16 << 20  # bytes of a file that takes longer to check than a thread to start


def open_engine(
    engine: str | Path,
    threads: int | None = None,
    chunk: int | None = None,
    native: bool = True,
    verify: bool = True,
) -> Runtime:
    """Load an engine directory with the adapter of its target.

    Args:
        engine: the engine directory.
        threads: compute threads; by default the physical cores this process may use.
        chunk: tokens a prefill run takes at once; by default what the adapter finds best.
        native: use edgekiln's own kernels where they are built; without, only those of the runtime.
        verify: check the SHA-256 of every file, that of large ones while they are loaded.

    Raises:
        EngineError: the directory is missing, damaged, or of a target this edgekiln does not know.
        EdgekilnError: the library that runs the target is not installed, or an option is out of range.
    """
    for name, value in (("threads", threads), ("chunk", chunk)):
        if value is not None and value < 1:
            raise EdgekilnError(f"{name} must be at least 1, got {value}")
    manifest = read_manifest(engine, verify=False)
    if manifest.target not in ADAPTERS:
        known = ", ".join(sorted(ADAPTERS))
        raise EngineError(f"{engine} is for target {manifest.target}, this edgekiln runs {known}: build it for one")
    path, extra = ADAPTERS[manifest.target]
    module_name, class_name = path.split(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise EdgekilnError(
            f"target {manifest.target} needs the module {error.name}: pip install 'edgekiln[{extra}]'"
        ) from error
    with _verifying(Path(engine), manifest) if verify else contextlib.nullcontext():
        adapter: Runtime = getattr(module, class_name)(
            Path(engine), manifest, threads=threads, chunk=chunk, native=native
        )
    return adapter


@contextlib.contextmanager
def _verifying(directory: Path, manifest: EngineManifest) -> Iterator[None]:
    """Check the graphs, then the weights while the block loads them; what is damaged explains what else went wrong.

    Weights are only numbers to who loads them, where a damaged graph might do anything.

    Raises:
        EngineError: naming a damaged file.
    """
    graphs = set(manifest.graphs.values())
    large = [name for name in manifest.files if name not in graphs and (directory / name).stat().st_size > _LARGE]
    verify_files(directory, manifest, manifest.files.keys() - set(large))
    with ThreadPoolExecutor(1) as pool:
        weights = pool.submit(verify_files, directory, manifest, large)
        try:
            yield
        finally:
            weights.result()
