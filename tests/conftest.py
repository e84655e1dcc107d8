"""Fixtures that several test modules use: kernels, and a tiny model and its engine, built once per session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # One compute thread per worker. These libraries read the variables when they are imported, after this module.
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

from edgekiln.runtimes.base import KernelsChoice


@pytest.fixture(params=["edgekiln", "onnxruntime"])
def kernels(request: pytest.FixtureRequest) -> KernelsChoice:
    """The kernels to run an engine with; a test that requests this fixture runs with both choices."""
    from edgekiln.runtimes.ort.kernels import kernel_library

    if request.param == "edgekiln" and kernel_library() is None:
        pytest.fail("edgekiln's kernels are not built: make kernels")
    choice: KernelsChoice = request.param
    return choice


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


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep cached calibration data out of the user's cache directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
