"""Export an engine to a model repository of Triton Inference Server: its files and config.pbtxt.

The server keeps no state: a client sends the past keys and values with each request and gets the present ones back.
The server does not batch requests (`max_batch_size: 0`, no dynamic batching), because the lengths of their KV caches
differ. Layout and fields are those of Triton's documents on the model repository and the model configuration.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekiln.engine.directory import WEIGHTS_FILE, atomic_directory
from edgekiln.engine.graph_io import in_layer, of_state, of_window
from edgekiln.engine.manifest import EngineManifest, read_manifest
from edgekiln.errors import EngineError, RequestError
from edgekiln.targets import TARGETS, TritonBackend

CONFIG_FILE = "config.pbtxt"
VERSION = "1"
_ANY_SIZE = -1
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16", "int8": "TYPE_INT8"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Tensor:
    """An input or output of the model.

    Attributes:
        name: as in the graph.
        data_type: as Triton names it.
        dims: sizes; -1 is any size.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]


def write_repository(engine: Path, repository: Path, name: str | None = None, instances: int = 1) -> Path:
    """Add `engine` to a model repository.

    Args:
        engine: the engine directory.
        repository: the model repository; it is created if it does not exist.
        name: of the model, the engine's by default; a model of that name is replaced.
        instances: number of copies that Triton runs concurrently.

    Returns:
        The model's directory.

    Raises:
        RequestError: Triton does not accept the name or the number of instances, or cannot run the engine.
        EngineError: the engine is damaged, or the directory cannot be written.
    """
    manifest = read_manifest(engine)
    model = name or manifest.name
    if not _NAME.fullmatch(model):
        raise RequestError(f"{model!r} is no model name for Triton: give letters, digits, '.', '_' and '-' with --name")
    if instances < 1:
        raise RequestError(f"instances must be at least 1, got {instances}")
    backend = _backend(manifest)
    target = repository / model
    with atomic_directory(target, _is_model, "a model of Triton", reads=[engine]) as directory:
        version = directory / VERSION
        version.mkdir()
        graph = manifest.graphs[backend.graph]
        # A TensorRT plan contains its weights; an ONNX graph has them in another file.
        for file in (graph, *([WEIGHTS_FILE] if backend.graph == "generate" else [])):
            shutil.copyfile(engine / file, version / file)
        (directory / CONFIG_FILE).write_text(config(manifest, model, instances), encoding="utf-8")
    return target


def config(manifest: EngineManifest, name: str, instances: int = 1) -> str:
    """The text of config.pbtxt, a ModelConfig in protobuf's text format.

    Args:
        manifest: the engine's.
        name: of the model.
        instances: number of copies that Triton runs concurrently.

    Raises:
        RequestError: Triton cannot run the engine.
    """
    backend = _backend(manifest)
    inputs, outputs = tensors(manifest)
    lines = [
        f"name: {json.dumps(name)}",
        f"backend: {json.dumps(backend.name)}",
        "max_batch_size: 0",
        f"default_model_filename: {json.dumps(manifest.graphs[backend.graph])}",
        *_fields("input", inputs),
        *_fields("output", outputs),
        f"instance_group [ {{ kind: {backend.instance_kind} count: {instances} }} ]",
    ]
    return "\n".join(lines) + "\n"


def tensors(manifest: EngineManifest) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of the graph, from engine.json."""
    io, kind = manifest.io, _TYPES[manifest.kv_cache.dtype]
    inputs = [Tensor(name, "TYPE_INT64", (_ANY_SIZE, _ANY_SIZE)) for name in (io.input_ids, io.position_ids)]
    outputs = [Tensor(io.logits, "TYPE_FP32", (_ANY_SIZE, _ANY_SIZE, manifest.architecture.vocab_size))]
    if io.total_length is not None:
        inputs.append(Tensor(io.total_length, "TYPE_INT32", (1,)))
    if io.logits_to_keep is not None:
        inputs.append(Tensor(io.logits_to_keep, "TYPE_INT64", (1,)))
    if io.sequence_length is not None:
        inputs.append(Tensor(io.sequence_length, "TYPE_INT64", (_ANY_SIZE,)))
    for window in sorted(set(manifest.kv_cache.windows) - {0}):
        inputs.append(Tensor(of_window(io.window_start or "", window), "TYPE_INT64", (_ANY_SIZE,)))
    sizes = zip(manifest.architecture.kv_heads, manifest.architecture.head_dims, strict=True)
    for layer, (heads, size) in enumerate(sizes):
        dims = (_ANY_SIZE, heads, _ANY_SIZE, size)
        inputs += [Tensor(in_layer(name, layer), kind, dims) for name in (io.past_key, io.past_value)]
        outputs += [Tensor(in_layer(name, layer), kind, dims) for name in (io.present_key, io.present_value)]
    for number, state in enumerate(manifest.kv_cache.states):
        form = _TYPES[state.dtype], (_ANY_SIZE, *state.shape)
        inputs.append(Tensor(of_state(io.past_state, number), *form))
        outputs.append(Tensor(of_state(io.present_state, number), *form))
    return inputs, outputs


def _fields(field: str, values: list[Tensor]) -> Iterator[str]:
    for value in values:
        dims = ", ".join(map(str, value.dims))
        yield f"{field} [ {{ name: {json.dumps(value.name)} data_type: {value.data_type} dims: [ {dims} ] }} ]"


def _backend(manifest: EngineManifest) -> TritonBackend:
    backends = {row.name: row.triton for row in TARGETS.values() if row.triton is not None}
    if manifest.target not in backends:
        raise RequestError(
            f"Triton has no backend for target {manifest.target}: build the engine for {', '.join(backends)}"
        )
    if manifest.kv_cache.layout not in ("shared-buffer", "growing"):
        raise RequestError(
            f"a cache of layout {manifest.kv_cache.layout} needs past and present at one address, which Triton does "
            "not give: build with --cache growing"
        )
    return backends[manifest.target]


def _is_model(directory: Path) -> bool:
    if not (directory / CONFIG_FILE).is_file():
        return False
    for path in sorted(directory.iterdir()):
        if path.name not in (CONFIG_FILE, VERSION):
            raise EngineError(
                f"{directory} has {path.name}, which `edgekiln triton` does not write: move it away or give another "
                "--name"
            )
    return True
