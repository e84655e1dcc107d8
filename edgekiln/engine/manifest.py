"""engine.json: its schema, and reading it with the checks of an untrusted file.

Reading checks the schema version, that each file is there, and its SHA-256.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekiln.engine.directory import ENGINE_FILE, sha256, write_json
from edgekiln.errors import EngineError

SCHEMA_VERSION = 2


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(_Record):
    """What the loop and the runtimes need to know of the model; sizes in elements, lengths in tokens."""

    model_type: str
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: list[int] = Field(description="key-value heads of each layer")
    head_dims: list[int] = Field(description="head size of each layer")
    max_length: int = Field(gt=0, description="positions one sequence may hold, prompt and answer together")
    parameters: int = Field(gt=0)


class KVCacheSpec(_Record):
    """How past and present are laid out.

    `shared-buffer` is one [B, KV, capacity, D] buffer bound as both; `inplace` the same with a capacity that is the
    architecture's max_length; `growing` two buffers, the second longer by what is new.
    """

    layout: Literal["shared-buffer", "growing", "in-place"]
    dtype: Literal["float32", "float16", "bfloat16", "int8"]


class TensorRTBuild(_Record):
    """What a plan was compiled by and for."""

    library: Literal["tensorrt", "tensorrt_rtx"]
    version: str = Field(description="of the library")
    compute_capabilities: list[str] = Field(description="that it was compiled for, as 8.9")
    max_batch: int = Field(gt=0, description="rows that are stepped together")
    prefill_chunk: int = Field(gt=0, description="tokens of a row that are taken at once")
    weight_stripped: bool = Field(
        default=False, description="the plan has no weights; they are in the graph it was made of"
    )
    options: list[str] = Field(default=[], description="of the build that were not left as they are")


class GraphIO(_Record):
    """Names of the graph's inputs and outputs; `past_key` and the like carry `{layer}`."""

    input_ids: str = "input_ids"
    position_ids: str = "position_ids"
    logits: str = "logits"
    past_key: str = "past.{layer}.key"
    past_value: str = "past.{layer}.value"
    present_key: str = "present.{layer}.key"
    present_value: str = "present.{layer}.value"
    total_length: str | None = Field(default=None, description="int32[1], the largest length of the batch, if wanted")
    logits_to_keep: str | None = Field(
        default=None, description="int64[1], K > 0: `generate` gives logits of the last K positions, if wanted"
    )


class SpecialTokens(_Record):
    bos: int | None = None
    eos: list[int] = Field(default_factory=list, description="any of these ends the answer")
    pad: int | None = None
    add_bos: bool = Field(default=False, description="the tokenizer's post-processor adds bos to plain text")


class SamplingDefaults(_Record):
    """From the model's generation_config; the command line overrides."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


class QuantizationRecipe(_Record):
    scheme: str = Field(description="the name of the recipe")
    group_size: int | None = Field(default=None, description="inputs that share a scale in most layers")


class EngineManifest(_Record):
    """engine.json."""

    schema_version: int = SCHEMA_VERSION
    name: str
    source: str = Field(description="the reference the engine was built from")
    target: str
    architecture: Architecture
    graphs: dict[str, str] = Field(
        description="role -> file; `generate` gives last-position logits, `score` all positions, `grow` a larger "
        "cache; `plan` is `generate` compiled by TensorRT"
    )
    io: GraphIO = GraphIO()
    kv_cache: KVCacheSpec
    tensorrt: TensorRTBuild | None = Field(default=None, description="of targets trt and trt-rtx")
    quantization: QuantizationRecipe
    special_tokens: SpecialTokens
    sampling: SamplingDefaults
    versions: dict[str, str]
    files: dict[str, str] = Field(description="file name -> SHA-256, every file of the engine but engine.json")


def write_manifest(directory: Path, **fields: Any) -> EngineManifest:
    """Hash every file in `directory` and write engine.json beside them; `fields` are EngineManifest's but `files`."""
    files = {path.name: sha256(path) for path in sorted(directory.iterdir()) if path.name != ENGINE_FILE}
    manifest = EngineManifest(files=files, **fields)
    write_json(directory / ENGINE_FILE, manifest.model_dump())
    return manifest


def read_manifest(directory: str | Path, verify: bool = True) -> EngineManifest:
    """Read and check an engine directory.

    Args:
        directory: the engine directory.
        verify: also hash every file (about 1 s a GB).

    Raises:
        EngineError: naming what is missing, damaged, edited or newer than this edgekiln.
    """
    directory = Path(directory)
    path = directory / ENGINE_FILE
    if not directory.is_dir():
        raise EngineError(f"no engine directory at {directory}: build one with `edgekiln engine MODEL -o {directory}`")
    if not path.is_file():
        raise EngineError(f"{directory} has no {ENGINE_FILE}, so it is not an engine directory")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError(f"{path} is damaged ({type(error).__name__}): build the engine again") from error
    if not isinstance(version, int) or version != SCHEMA_VERSION:
        older = isinstance(version, int) and version < SCHEMA_VERSION
        fix = "build the engine again" if older else "upgrade edgekiln"
        raise EngineError(f"{path} has schema version {version}, this edgekiln reads version {SCHEMA_VERSION}: {fix}")
    try:
        manifest = EngineManifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EngineError(f"{path} is damaged: {where}: {first['msg']}, build the engine again") from error
    for name in manifest.files:
        file = directory / name
        if Path(name).name != name or not file.is_file():
            raise EngineError(f"{file} is missing from the engine: build it again")
    for role, name in manifest.graphs.items():
        if name not in manifest.files:
            raise EngineError(f"{path} names {name} as its {role} graph but lists no such file: build the engine again")
    if verify:
        verify_files(directory, manifest, manifest.files)
    return manifest


def verify_files(directory: Path, manifest: EngineManifest, names: Iterable[str]) -> None:
    """Hash files of an engine directory, about 1 s a GB.

    Raises:
        EngineError: naming the first that is damaged.
    """
    for name in names:
        if sha256(directory / name) != manifest.files[name]:
            raise EngineError(
                f"{directory / name} is damaged or was edited (its SHA-256 differs): build the engine again"
            )
