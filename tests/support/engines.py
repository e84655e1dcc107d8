"""Graphs and engines that many tests use, each made once per session.

Tracing takes seconds and is nearly the whole time of building a tiny engine, so `shared_traces` keeps every trace, also
for the other workers of pytest-xdist. Engines of real models are shared between workers, too.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from filelock import FileLock

from edgekiln.calib.data.options import DataOptions
from edgekiln.export.tracing.cache_trace import CacheShape
from edgekiln.export.tracing.trace import trace
from edgekiln.pipeline import assemble
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions, CacheType
from edgekiln.sources.resolve import resolve
from support.models import save_checkpoint

LONG = 1 << 18  # max_length of the fixture `long_engine`
_INITIALIZERS, _VALUELESS = "initializers", "valueless"


@contextmanager
def shared_traces(directory: Path) -> Iterator[None]:
    """Inside the block, models with the same config and quantization are traced once, and their graph is cloned.

    Args:
        directory: where the graphs are kept; several processes may share it.
    """
    graphs: dict[str, ir.Model] = {}

    def cached(model: Any, caches: list[list[CacheShape]]) -> ir.Model:
        key = _trace_key(model, caches)
        if key not in graphs:
            path = directory / f"{key}.onnx"
            with FileLock(directory / f"{key}.lock"):
                if not path.exists():
                    _save(trace(model, caches), path)
            graphs[key] = _load(path)
        return graphs[key].clone()

    directory.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "trace", cached)
        yield


def _trace_key(model: Any, caches: list[list[CacheShape]]) -> str:
    """A digest of all that a trace depends on: config, modules with their schemes, tensors, and caches."""
    config = model.config.to_dict()
    config.pop("_name_or_path", None)
    parts = [
        type(model).__qualname__,
        json.dumps(config, sort_keys=True, default=str),
        str(model),
        [(name, tuple(p.shape), str(p.dtype)) for name, p in model.named_parameters()],
        [(name, tuple(b.shape), str(b.dtype)) for name, b in model.named_buffers()],
        sorted(model.state_dict()),
        caches,
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _save(model: ir.Model, path: Path) -> None:
    """Write a graph; initializers without values, which ONNX does not have, are written as inputs."""
    model = model.clone()
    graph = model.graph
    initializers = list(graph.initializers.values())
    valueless = [value for value in initializers if value.const_value is None]
    for value in valueless:
        assert value.name
        graph.initializers.pop(value.name)
        graph.inputs.append(value)
    for key, values in ((_INITIALIZERS, initializers), (_VALUELESS, valueless)):
        model.metadata_props[key] = json.dumps([value.name for value in values])
    ir.save(model, path)


def _load(path: Path) -> ir.Model:
    """Read a graph that `_save` has written."""
    model = ir.load(path)
    graph = model.graph
    names = {key: json.loads(model.metadata_props.pop(key)) for key in (_INITIALIZERS, _VALUELESS)}
    values = {value.name: value for value in graph.inputs if value.name in set(names[_VALUELESS])}
    for value in values.values():
        graph.inputs.remove(value)
    values |= dict(graph.initializers)
    graph.initializers.clear()
    for name in names[_INITIALIZERS]:
        graph.initializers.add(values[name])
    return model


def build(directory: Path, family: str, quant: str = "int8", kv: CacheType = "float32", **config: object) -> Path:
    """Build an engine from a tiny random model."""
    save_checkpoint(directory / "checkpoint", family, **config)
    options = BuildOptions(quant=quant, kv=kv, data=DataOptions(samples=4, length=32))
    build_engine(resolve(str(directory / "checkpoint")), directory / "engine", options)
    return directory / "engine"


def build_once(directory: Path, model: str, quant: str) -> Path:
    """The engine of `model` at `directory`/`quant`, built if no process has built it before."""
    directory.mkdir(exist_ok=True)
    with FileLock(directory / f"{quant}.lock"):
        if not (directory / quant).exists():
            build_engine(resolve(model), directory / quant, BuildOptions(quant=quant))
    return directory / quant
