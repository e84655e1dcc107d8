"""Open an engine directory with the adapter of its target."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

from edgekiln import arguments
from edgekiln.engine.manifest import EngineManifest, check_unchanged, read_manifest, verify_files
from edgekiln.engine.schema import shown
from edgekiln.errors import EdgekilnError, EngineError, RequestError
from edgekiln.runtimes.base import KernelsChoice, Runtime
from edgekiln.runtimes.threads import checked_threads
from edgekiln.targets import TARGETS

_LARGE_FILE = 16 << 20  # bytes; hashing a file of this size takes longer than starting a thread


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
        threads: compute threads, at most the processors that this process may use; by default see
            `edgekiln.runtimes.threads.default_threads`.
        chunk: most tokens per run in prefill; by default the adapter's own choice.
        kernels: "edgekiln" uses edgekiln's kernels where they are built and support the graph, "onnxruntime" only those
            of ONNX Runtime.
        verify: check the SHA-256 of every file; large weight files are hashed while they are loaded.

    Raises:
        EngineError: the directory is missing, damaged, or of a target this edgekiln does not know.
        EdgekilnError: the library that runs the target is not installed, or an option is out of range.
    """
    threads = checked_threads(threads)
    if chunk is not None and not 1 <= (chunk := arguments.integer("chunk", chunk)) < 2**31:
        raise RequestError(f"chunk must be {'at least 1' if chunk < 1 else 'below 2^31'}, got {chunk}")
    if kernels not in get_args(KernelsChoice):
        raise EdgekilnError(f"kernels must be one of {', '.join(get_args(KernelsChoice))}, got {kernels}")
    arguments.flag("verify", verify)
    manifest = read_manifest(engine, verify=False)
    if manifest.target not in TARGETS:
        raise EngineError(
            f"{engine} is for target {shown(manifest.target)}, which this edgekiln does not run: "
            "build it for one that `edgekiln doctor` lists"
        )
    adapter = TARGETS[manifest.target].load_adapter()
    try:
        with _verifying(Path(engine), manifest) if verify else contextlib.nullcontext():
            runtime: Runtime = adapter(Path(engine), manifest, threads=threads, chunk=chunk, kernels=kernels)
    except (EngineError, OSError):
        check_unchanged(Path(engine), manifest)  # where it fails, it explains the error
        raise
    check_unchanged(Path(engine), manifest)
    return runtime


@contextlib.contextmanager
def _verifying(directory: Path, manifest: EngineManifest) -> Iterator[None]:
    """Hash the graphs and small files first, then the large weight files in parallel with the `with` block.

    Graphs are parsed and executed, so they are checked before they are loaded; weights are only data. A hash that
    differs is raised in place of an error of the block, because it explains that error.

    Raises:
        EngineError: naming a damaged file.
    """
    graphs = set(manifest.graphs.values())
    large = [name for name in manifest.files if name not in graphs and (directory / name).stat().st_size > _LARGE_FILE]
    verify_files(directory, manifest, manifest.files.keys() - set(large))
    with ThreadPoolExecutor(1) as pool:
        weights = pool.submit(verify_files, directory, manifest, large)
        try:
            yield
        finally:
            weights.result()
