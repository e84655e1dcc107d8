"""An engine as a model of Triton Inference Server: its files in a version's folder, and config.pbtxt.

The server keeps no state: a client sends the past keys and values with each request and gets the present ones back.
Requests are not batched by the server (`max_batch_size: 0` and no dynamic batching), because their pasts differ in
length. Layout and fields follow Triton's model repository and model configuration documents.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekiln.engine.directory import WEIGHTS_FILE, atomic_directory
from edgekiln.engine.manifest import EngineManifest, read_manifest
from edgekiln.errors import RequestError

CONFIG_FILE = "config.pbtxt"
VERSION = "1"
_ANY = -1
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16", "int8": "TYPE_INT8"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Backend:
    """What of Triton runs a target.

    Attributes:
        name: the backend.
        kind: of its instances.
        role: of the engine's graph that it loads.
    """

    name: str
    kind: str
    role: str


BACKENDS = {
    "ort-cpu": Backend("onnxruntime", "KIND_CPU", "generate"),
    "ort-cuda": Backend("onnxruntime", "KIND_GPU", "generate"),
    "trt": Backend("tensorrt", "KIND_GPU", "plan"),
}


@dataclass(frozen=True)
class Tensor:
    """An input or output; -1 is any size."""

    name: str
    data_type: str
    dims: tuple[int, ...]


def write_repository(engine: Path, repository: Path, name: str | None = None, instances: int = 1) -> Path:
    """Add `engine` to a model repository.

    Args:
        engine: the engine directory.
        repository: the folder that Triton is started with; made if it is not there.
        name: of the model; the engine's by default. A model of that name is replaced.
        instances: copies that Triton runs at a time.

    Returns:
        The model's folder.

    Raises:
        RequestError: the name, the number of instances or the engine is not one that Triton takes.
        EngineError: the engine is damaged, or the folder cannot be written.
    """
    manifest = read_manifest(engine)
    model = name or manifest.name
    if not _NAME.fullmatch(model):
        raise RequestError(f"{model!r} is no model name for Triton: give letters, digits, '.', '_' and '-' with --name")
    if instances < 1:
        raise RequestError(f"instances must be at least 1, got {instances}")
    backend = _backend(manifest)
    target = repository / model
    with atomic_directory(target, _is_model, "a model of Triton") as directory:
        version = directory / VERSION
        version.mkdir()
        graph = manifest.graphs[backend.role]
        # A plan has its weights inside; a graph has them beside it.
        for file in (graph, *([WEIGHTS_FILE] if backend.role == "generate" else [])):
            shutil.copyfile(engine / file, version / file)
        (directory / CONFIG_FILE).write_text(config(manifest, model, instances), encoding="utf-8")
    return target


def config(manifest: EngineManifest, name: str, instances: int = 1) -> str:
    """The text of config.pbtxt: a ModelConfig in protobuf's text format.

    Raises:
        RequestError: Triton does not run the engine.
    """
    backend = _backend(manifest)
    inputs, outputs = tensors(manifest)
    lines = [
        f"name: {json.dumps(name)}",
        f"backend: {json.dumps(backend.name)}",
        "max_batch_size: 0",
        f"default_model_filename: {json.dumps(manifest.graphs[backend.role])}",
        *_fields("input", inputs),
        *_fields("output", outputs),
        f"instance_group [ {{ kind: {backend.kind} count: {instances} }} ]",
    ]
    return "\n".join(lines) + "\n"


def tensors(manifest: EngineManifest) -> tuple[list[Tensor], list[Tensor]]:
    """The graph's inputs and outputs, as engine.json states them."""
    io, kind = manifest.io, _TYPES[manifest.kv_cache.dtype]
    inputs = [Tensor(name, "TYPE_INT64", (_ANY, _ANY)) for name in (io.input_ids, io.position_ids)]
    outputs = [Tensor(io.logits, "TYPE_FP32", (_ANY, _ANY, manifest.architecture.vocab_size))]
    if io.total_length is not None:
        inputs.append(Tensor(io.total_length, "TYPE_INT32", (1,)))
    if io.logits_to_keep is not None:
        inputs.append(Tensor(io.logits_to_keep, "TYPE_INT64", (1,)))
    sizes = zip(manifest.architecture.kv_heads, manifest.architecture.head_dims, strict=True)
    for layer, (heads, size) in enumerate(sizes):
        dims = (_ANY, heads, _ANY, size)
        inputs += [Tensor(name.format(layer=layer), kind, dims) for name in (io.past_key, io.past_value)]
        outputs += [Tensor(name.format(layer=layer), kind, dims) for name in (io.present_key, io.present_value)]
    return inputs, outputs


def _fields(field: str, values: list[Tensor]) -> Iterator[str]:
    for value in values:
        dims = ", ".join(map(str, value.dims))
        yield f"{field} [ {{ name: {json.dumps(value.name)} data_type: {value.data_type} dims: [ {dims} ] }} ]"


def _backend(manifest: EngineManifest) -> Backend:
    if manifest.target not in BACKENDS:
        raise RequestError(
            f"Triton has no backend for target {manifest.target}: build the engine for {', '.join(BACKENDS)}"
        )
    if manifest.kv_cache.layout not in ("shared-buffer", "growing"):
        raise RequestError(
            f"a cache of layout {manifest.kv_cache.layout} needs past and present at one address, which Triton does not give: "
            "build with --cache growing"
        )
    return BACKENDS[manifest.target]


def _is_model(directory: Path) -> bool:
    return (directory / CONFIG_FILE).is_file()
