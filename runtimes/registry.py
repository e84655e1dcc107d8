"""Open an engine directory with the adapter of its target."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

from edgekiln import arguments
from edgekiln.engine.manifest import EngineManifest, check_unchanged, read_manifest, verify_files
from edgekiln.engine.packed_directory import FileState, is_verified, record_verified
from edgekiln.engine.schema import shown
from edgekiln.errors import EdgekilnError, EngineError, RequestError
from edgekiln.runtimes.base import KernelsChoice, PackCacheUse, Runtime
from edgekiln.runtimes.threads import checked_threads
from edgekiln.targets import TARGETS

_LARGE_FILE = 16 << 20  # bytes; hashing a file of this size takes longer than starting a thread


def open_engine(
    engine: str | Path,
    threads: int | None = None,
    chunk: int | None = None,
    kernels: KernelsChoice = "edgekiln",
    verify: bool = True,
    pack_cache: bool = True,
) -> Runtime:
    """Load an engine directory with the adapter of its target.

    Args:
        engine: the engine directory.
        threads: compute threads, at most the processors that this process may use; by default see
            `edgekiln.runtimes.threads.default_threads`.
        chunk: most tokens per run in prefill; by default the adapter's own choice.
        kernels: "edgekiln" uses edgekiln's kernels where they are built and support the graph, "onnxruntime" only those
            of ONNX Runtime.
        verify: check the SHA-256 of every file; large weight files are hashed while they are loaded, and with a pack
            cache not again until they are written.
        pack_cache: read packed weights from the directory `packed-weights` of an engine with 256 MiB of weights or
            more, and write them there where they are missing and the weights are verified.

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
    arguments.flag("pack_cache", pack_cache)
    manifest = read_manifest(engine, verify=False)
    if manifest.target not in TARGETS:
        raise EngineError(
            f"{engine} is for target {shown(manifest.target)}, which this edgekiln does not run: "
            "build it for one that `edgekiln doctor` lists"
        )
    adapter = TARGETS[manifest.target].load_adapter()
    use: PackCacheUse = "off" if not pack_cache else "write" if verify else "read"
    verified: dict[str, FileState] = {}
    try:
        with _verifying(Path(engine), manifest, pack_cache, verified) if verify else contextlib.nullcontext():
            runtime: Runtime = adapter(
                Path(engine), manifest, threads=threads, chunk=chunk, kernels=kernels, pack_cache=use
            )
    except (EngineError, OSError):
        check_unchanged(Path(engine), manifest)  # where it fails, it explains the error
        raise
    check_unchanged(Path(engine), manifest)
    runtime.keep_packed_weights()
    if pack_cache and verified:
        record_verified(Path(engine), manifest.files, verified)
    return runtime


@contextlib.contextmanager
def _verifying(
    directory: Path, manifest: EngineManifest, use_record: bool, verified: dict[str, FileState]
) -> Iterator[None]:
    """Hash the graphs and small files first, then the large weight files in parallel with the `with` block.

    Graphs are parsed and executed, so they are checked before they are loaded; weights are only data. A hash that
    differs is raised in place of an error of the block, because it explains that error.

    Args:
        directory, manifest: of the engine.
        use_record: skip large files that were not written since they were found right.
        verified: gets the states of the large files, where one was hashed, that any later write changes.

    Raises:
        EngineError: naming a damaged file.
    """
    graphs = set(manifest.graphs.values())
    large = [name for name in manifest.files if name not in graphs and (directory / name).stat().st_size > _LARGE_FILE]
    verify_files(directory, manifest, manifest.files.keys() - set(large))
    began = time.time()
    states = {name: FileState.of(directory / name) for name in large}
    if use_record:
        large = [name for name in large if not is_verified(directory, name, manifest.files[name])]
    with ThreadPoolExecutor(1) as pool:
        weights = pool.submit(verify_files, directory, manifest, large)
        try:
            yield
        finally:
            weights.result()
        if large:
            verified.update((name, state) for name, state in states.items() if state.is_settled(began))
