"""One compute thread per pytest-xdist worker, and fixtures that several test modules use."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
if _WORKER := os.environ.get("PYTEST_XDIST_WORKER"):
    # The libraries read these variables when they are imported, after this module. Runtimes, and processes that tests
    # start, have as many threads as cores are allowed.
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(_name, "1")
    if _CORES:
        os.sched_setaffinity(0, {_CORES[int(_WORKER.removeprefix("gw")) % len(_CORES)]})

# Shells start background jobs with SIGINT ignored, and nohup ignores SIGHUP. Processes that tests start inherit these.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

from edgekiln.runtimes.base import KernelsChoice  # noqa: E402


@pytest.fixture
def all_cores() -> Iterator[None]:
    """Allow all cores, for a test that computes with several threads, also in a worker of pytest-xdist."""
    if not _CORES:
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _CORES)
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture(autouse=True)
def _same_random_numbers(request: pytest.FixtureRequest) -> None:
    """Start a module's generator `RNG` anew, so that a test's data do not depend on the tests before it."""
    if generator := getattr(request.module, "RNG", None):
        generator.bit_generator.state = type(generator.bit_generator)(0).state


@pytest.fixture(params=["edgekiln", "onnxruntime"])
def kernels(request: pytest.FixtureRequest) -> KernelsChoice:
    """The kernels to run an engine with; a test that requests this fixture runs with both choices."""
    from edgekiln.runtimes.ort.kernels import kernel_library

    if request.param == "edgekiln" and kernel_library() is None:
        pytest.fail("edgekiln's kernels are not built: make kernels")
    choice: KernelsChoice = request.param
    return choice


@pytest.fixture(scope="session")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of this session that all workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if _WORKER else base


@pytest.fixture(scope="session", autouse=True)
def _traces(shared_directory: Path) -> Iterator[None]:
    """Trace each tiny model once; tests that import no exporter when they are collected need none."""
    if "edgekiln.pipeline.assemble" not in sys.modules:
        yield
        return
    from support.engines import shared_traces

    with shared_traces(shared_directory / "traces"):
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama in a Hugging Face directory."""
    from support.models import save_checkpoint

    directory = tmp_path_factory.mktemp("checkpoint") / "tiny-llama"
    save_checkpoint(directory, "llama")
    return directory


@pytest.fixture(scope="session")
def tiny_engine(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random llama as an ort-cpu engine in int4."""
    from edgekiln.pipeline.build import build_engine
    from edgekiln.pipeline.options import BuildOptions
    from edgekiln.sources.resolve import resolve

    engine = tmp_path_factory.mktemp("engines") / "tiny"
    build_engine(resolve(str(tiny_checkpoint)), engine, BuildOptions(quant="int4"))
    return engine


@pytest.fixture(scope="session")
def real_engine(shared_directory: Path) -> Callable[[str], Path]:
    """The engine of SmolLM2-135M in a preset, built on first use; tests do not change it."""
    from support.engines import build_once

    return lambda quant: build_once(shared_directory / "real", "smollm2-135m", quant)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep cached calibration data out of the user's cache directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
