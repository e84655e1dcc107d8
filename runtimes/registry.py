"""From the target an engine was built for to the adapter that runs it."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

from edgekiln.engine.manifest import EngineManifest, read_manifest, verify_files
from edgekiln.errors import EdgekilnError, EngineError
from edgekiln.runtimes.base import KernelsChoice, Runtime
from edgekiln.targets import TARGETS

_LARGE = 16 << 20  # bytes of a file that takes longer to check than a thread to start


def open_engine(
    engine: str | Path,
    threads: int | None = None,
    chunk: int | None = None,
    kernels: KernelsChoice = "edgekiln",
    verify: bool = True,
) -> Runtime:
    """Load an engine directory with the adapter of its target.

    Args:
        engine: the engine directory.
        threads: compute threads; by default the physical cores this process may use.
        chunk: tokens a prefill run takes at once; by default what the adapter finds best.
        kernels: `edgekiln` uses edgekiln's kernels where they are built and support the graph; `onnxruntime` uses only
            those of ONNX Runtime.
        verify: check the SHA-256 of every file, that of large ones while they are loaded.

    Raises:
        EngineError: the directory is missing, damaged, or of a target this edgekiln does not know.
        EdgekilnError: the library that runs the target is not installed, or an option is out of range.
    """
    for name, value in (("threads", threads), ("chunk", chunk)):
        if value is not None and value < 1:
            raise EdgekilnError(f"{name} must be at least 1, got {value}")
    if kernels not in get_args(KernelsChoice):
        raise EdgekilnError(f"kernels must be one of {', '.join(get_args(KernelsChoice))}, got {kernels}")
    manifest = read_manifest(engine, verify=False)
    if manifest.target not in TARGETS:
        known = ", ".join(sorted(TARGETS))
        raise EngineError(f"{engine} is for target {manifest.target}, this edgekiln runs {known}: build it for one")
    adapter = TARGETS[manifest.target].load_adapter()
    with _verifying(Path(engine), manifest) if verify else contextlib.nullcontext():
        runtime: Runtime = adapter(Path(engine), manifest, threads=threads, chunk=chunk, kernels=kernels)
    return runtime


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
