"""Engines that several test modules use, built once a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", params=[True, False], ids=["native", "stock"])
def native(request: pytest.FixtureRequest) -> bool:
    """Whether to use edgekiln's own kernels; a test that asks for it runs with both."""
    from edgekiln.runtimes.ort.kernels import native_kernels

    if request.param and native_kernels() is None:
        pytest.fail("edgekiln's own kernels are not built: make native")
    return bool(request.param)


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
