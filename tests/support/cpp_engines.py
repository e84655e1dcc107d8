"""Engines for the tests of libedgekiln."""

from pathlib import Path

from edgekiln.calib.data.options import DataOptions
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions, CacheType
from edgekiln.sources.resolve import resolve
from support.models import save_checkpoint

LONG = 1 << 18  # max_length of the fixture `long_engine`


def build(directory: Path, family: str, quant: str = "int8", kv: CacheType = "float32", **config: object) -> Path:
    """Build an engine from a tiny random model."""
    save_checkpoint(directory / "checkpoint", family, **config)
    options = BuildOptions(quant=quant, kv=kv, data=DataOptions(samples=4, length=32))
    build_engine(resolve(str(directory / "checkpoint")), directory / "engine", options)
    return directory / "engine"
