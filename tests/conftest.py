"""Engines that several test modules use, built once a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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
    """What calibration keeps stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
