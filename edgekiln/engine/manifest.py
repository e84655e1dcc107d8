"""engine.json: its fields, and reading it as an untrusted file.

`read_manifest` checks the schema version, the fields, that each file is there, and its SHA-256. The fields are
described in docs/engine-format.md. cpp/src/engine/manifest.cpp makes the same checks in the same order.
"""

import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from edgekiln.engine.directory import ENGINE_FILE, TOKENIZER_FILE, sha256, write_json
from edgekiln.engine.graph_io import GraphIO
from edgekiln.engine.schema import MAX_INT, Schema, damaged, parse_json, refusal, shown, validate, version_error
from edgekiln.errors import EngineError

SCHEMA_VERSION = 5
# Above any model's sizes, and small enough that buffer sizes computed from them fit in 64 bits.
MAX_LAYERS = 1 << 16  # decoder layers, KV cache layers, and states
MAX_ELEMENTS = 1 << 24  # of key-value heads, and of a head
MAX_TOKENS = 1 << 31  # of the vocabulary, and of a sequence
MAX_STATE_ELEMENTS = 1 << 28
MAX_STATE_SIZES = 8

# What to do about a prompt that the engine has no room for.
LONGER_ENGINE: Final = "shorten it or build the engine with a larger --max-length"

Size = Annotated[int, Field(ge=1, le=MAX_INT)]
Index = Annotated[int, Field(ge=0, le=MAX_INT)]
_MAX_FLOAT, _LEAST_ABOVE_0 = sys.float_info.max, math.ulp(0.0)
# Sampling option -> least and largest value, and what the others are not.
_RANGES = {
    "temperature": (0.0, _MAX_FLOAT, "it is not 0 or more"),
    "top_p": (0.0, 1.0, "it is not from 0 to 1"),
    "min_p": (0.0, 1.0, "it is not from 0 to 1"),
    "repetition_penalty": (_LEAST_ABOVE_0, _MAX_FLOAT, "it is not more than 0"),
}


def _text_or_texts(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return value
    raise refusal("it is missing" if value is None else "it is not a string or a list of strings")


class Architecture(Schema):
    """The sizes of the model that generation and the runtimes need.

    A KV cache layer is a pair of caches, one for keys and one for values. Hybrid models have fewer of them than decoder
    layers, and models without attention have none.
    """

    model_type: str = Field(description="as transformers names it")
    vocab_size: Size
    hidden_size: Size
    layers: Size = Field(description="decoder layers")
    heads: Index = Field(description="attention heads of a layer; 0: the model has no attention")
    kv_heads: list[Size] = Field(description="key-value heads of each KV cache layer")
    head_dims: list[Size] = Field(description="head size of each KV cache layer")
    max_length: Size = Field(description="largest number of tokens of a sequence, prompt and answer together")
    context_length: Size | None = Field(
        default=None, description="the largest `max_length` with which the model can be built; None: it is not known"
    )
    parameters: Size

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        kv_heads, head_dims = len(self.kv_heads), len(self.head_dims)
        if self.layers > MAX_LAYERS or kv_heads > MAX_LAYERS or kv_heads != head_dims:
            raise refusal(f"{self.layers} layers have {kv_heads} kv_heads and {head_dims} head_dims")
        for layer, (heads, size) in enumerate(zip(self.kv_heads, self.head_dims, strict=True)):
            if heads > MAX_ELEMENTS or size > MAX_ELEMENTS:
                raise refusal(f"KV cache layer {layer} has keys of {heads} times {size}")
        if self.vocab_size > MAX_TOKENS or self.max_length > MAX_TOKENS:
            raise refusal(f"a vocabulary of {self.vocab_size} for {self.max_length} positions")
        return self

    @property
    def length_advice(self) -> str:
        """What to do about a prompt for which `max_length` is too short, as libedgekiln says it."""
        if self.context_length is not None and self.max_length >= self.context_length:
            return "shorten it, as the model holds no more"
        return LONGER_ENGINE


class StateSpec(Schema):
    """What a layer carries from token to token beside or instead of keys and values, in an array of constant size."""

    shape: list[Size] = Field(description="sizes without the batch, which is the first axis")
    dtype: Literal["float32", "float16", "bfloat16"]

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if len(self.shape) > MAX_STATE_SIZES:
            raise refusal(f"it has {len(self.shape)} sizes")
        if math.prod(self.shape) > MAX_STATE_ELEMENTS:
            raise refusal(f"it has {' times '.join(map(str, self.shape))} elements")
        return self


class KVCacheSpec(Schema):
    """Layout and data type of the KV cache, and the states beside it.

    Layouts:
        shared-buffer: past and present are one buffer [B, KV, capacity, D] that the graph updates; it is reallocated
            as it fills.
        in-place: the same, with a capacity of `architecture.max_length`.
        growing: past and present are two buffers; present is longer by the new tokens.
    """

    layout: Literal["shared-buffer", "growing", "in-place"]
    dtype: Literal["float32", "float16", "bfloat16", "int8"]
    windows: list[Index] = Field(
        default=[],
        description="sliding window of each KV cache layer that has a window buffer, which holds the last tokens only; "
        "0: the layer holds all tokens; empty: all layers do",
    )
    recompute_beyond: Size | None = Field(
        default=None,
        description="a sequence that becomes longer than so many tokens, or shorter again, has other keys and values: "
        "all are computed again; None: they stay",
    )
    states: list[StateSpec] = Field(default=[], description="states of the graph, in the order of their numbers")

    @model_validator(mode="after")
    def _check_windows(self) -> Self:
        if any(self.windows) and self.layout != "shared-buffer":
            raise refusal(f"layout {self.layout} has no windows")
        if any(window > MAX_TOKENS for window in self.windows):
            raise refusal(f"a window of {max(self.windows)} tokens")
        if len(self.states) > MAX_LAYERS:
            raise refusal(f"{len(self.states)} states")
        return self


class TensorRTBuild(Schema):
    """The library, GPUs and shapes that a TensorRT plan was compiled for."""

    library: Literal["tensorrt", "tensorrt_rtx"]
    version: str = Field(description="version of the library")
    compute_capabilities: list[str] = Field(description="GPUs that the plan was compiled for, as 8.9")
    max_batch: Size = Field(description="largest batch of a decode step")
    prefill_chunk: Size = Field(description="largest number of tokens in one prefill run")
    weight_stripped: bool = Field(
        default=False, description="the plan has no weights; it is refitted from the `generate` graph"
    )
    options: list[str] = Field(default=[], description="build options that differ from the defaults")


class SpecialTokens(Schema):
    """Ids of the beginning-of-sequence, end-of-sequence and padding tokens."""

    bos: Index | None = Field(default=None, description="beginning of a text")
    eos: list[Index] = Field(default_factory=list, description="each of these ends an answer")
    pad: Index | None = Field(default=None, description="padding")
    add_bos: bool = Field(default=False, description="the tokenizer's post-processor adds bos to plain text")
    template_variables: dict[str, Annotated[str | list[str], BeforeValidator(_text_or_texts)]] = Field(
        default_factory=dict,
        description="variables of the chat template -> text of the special token, e.g. `eos_token`; only those that "
        "the model's tokenizer has",
    )

    def ids(self) -> list[int]:
        """bos, eos and pad, as far as there are any."""
        return [token for token in (self.bos, *self.eos, self.pad) if token is not None]

    def within(self, vocab_size: int) -> "SpecialTokens":
        """The same without ids for which the model has neither embedding nor logit."""
        bos = self.bos if self.bos is not None and self.bos < vocab_size else None
        pad = self.pad if self.pad is not None and self.pad < vocab_size else None
        eos = [token for token in self.eos if token < vocab_size]
        return self.model_copy(update={"bos": bos, "eos": eos, "pad": pad, "add_bos": self.add_bos and bos is not None})


class SamplingDefaults(Schema):
    """Sampling options of the model's generation_config.json; options of a request override them."""

    temperature: float | None = None
    top_k: Index | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    @field_validator("temperature", "top_p", "min_p", "repetition_penalty")
    @classmethod
    def _check_range(cls, value: float | None, info: ValidationInfo) -> float | None:
        least, most, reason = _RANGES[info.field_name or ""]
        if value is not None and not least <= value <= most:
            raise refusal(reason)
        return value


class QuantizationRecipe(Schema):
    """The recipe that the engine was quantized with; quantization.json has the layers."""

    scheme: str = Field(description="name of the recipe")
    group_size: Size | None = Field(default=None, description="group size of most layers")


class _Version(BaseModel):
    """The field that a manifest of every schema version has."""

    schema_version: Annotated[int, Field(ge=-(2**63), le=MAX_INT)]


class EngineManifest(Schema):
    """engine.json."""

    schema_version: int = SCHEMA_VERSION
    name: str = Field(description="short name of the model")
    source: str = Field(description="model argument that the engine was built from")
    target: str = Field(description="runtime that the engine was built for")
    architecture: Architecture
    graphs: dict[str, str] = Field(
        description="role -> file; `generate` gives logits of the last position, `score` of all positions, `grow` "
        "enlarges the cache; `plan` is `generate` compiled by TensorRT"
    )
    io: GraphIO = GraphIO()
    kv_cache: KVCacheSpec
    tensorrt: TensorRTBuild | None = Field(default=None, description="for targets trt and trt-rtx")
    quantization: QuantizationRecipe
    special_tokens: SpecialTokens
    sampling: SamplingDefaults
    versions: dict[str, str] = Field(description="versions of edgekiln and the libraries that built the engine")
    files: dict[str, str] = Field(description="file name -> SHA-256 of every file of the engine except engine.json")

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        vocab_size = self.architecture.vocab_size
        for token in self.special_tokens.ids():
            if token >= vocab_size:
                raise refusal(f"special_tokens: {token} is not below the vocabulary of {vocab_size}")
        layers, windows = len(self.architecture.kv_heads), self.kv_cache.windows
        if len(windows) not in (0, layers):
            raise refusal(f"kv_cache: {len(windows)} windows for {layers} KV cache layers")
        if any(windows) and self.io.window_start is None:
            raise refusal("io.window_start: it is missing")
        if self.kv_cache.recompute_beyond is not None and self.io.sequence_length is None:
            raise refusal("io.sequence_length: it is missing")
        if self.kv_cache.recompute_beyond is None and self.io.sequence_length is not None:
            raise refusal("kv_cache.recompute_beyond: it is missing")
        if not {"generate", "plan"} & set(self.graphs):
            raise refusal("graphs: generate is missing")
        return self


def write_manifest(directory: Path, **fields: Any) -> EngineManifest:
    """Hash every file of an engine directory and write engine.json.

    Args:
        directory: the engine directory, with all other files in it.
        fields: the fields of `EngineManifest` except `files`.
    """
    files = {path.name: sha256(path) for path in sorted(directory.iterdir()) if path.name != ENGINE_FILE}
    manifest = EngineManifest(files=files, **fields)
    write_json(directory / ENGINE_FILE, manifest.model_dump())
    return manifest


def read_manifest(directory: str | Path, verify: bool = True) -> EngineManifest:
    """Read and check engine.json of an engine directory.

    Args:
        directory: the engine directory.
        verify: also check the SHA-256 of every file, which takes about 1 s per GB.

    Raises:
        EngineError: a file is missing, damaged or edited, or engine.json has another schema version.
    """
    directory = Path(directory)
    path = directory / ENGINE_FILE
    if not os.path.isdir(directory):  # unlike Path.is_dir, False for a name that is too long
        raise EngineError(f"no engine directory at {directory}: build one with `edgekiln engine MODEL -o {directory}`")
    if not path.is_file():
        raise EngineError(f"{directory} has no {ENGINE_FILE}, so it is not an engine directory")
    try:
        raw = parse_json(path.read_bytes(), path)
    except OSError as error:
        raise EngineError(f"{path} cannot be read: check its permissions") from error
    if not isinstance(raw, dict):
        raise damaged(path, "it is not an object")
    version = validate(_Version, {"schema_version": raw.get("schema_version")}, path).schema_version
    if version != SCHEMA_VERSION:
        raise version_error(path, version, SCHEMA_VERSION)
    manifest = validate(EngineManifest, raw, path)
    if TOKENIZER_FILE not in manifest.files:
        raise damaged(path, f"files: {TOKENIZER_FILE} is missing")
    for role, name in manifest.graphs.items():
        if name not in manifest.files:
            raise EngineError(
                f"{path} names {shown(name)} as its {shown(role)} graph but lists no such file: build the engine again"
            )
    for name in manifest.files:
        if name in ("", ".", "..") or "/" in name or not os.path.isfile(directory / name):
            raise EngineError(f"{directory}/{shown(name)} is missing from the engine: build it again")
    if verify:
        verify_files(directory, manifest, manifest.files)
    return manifest


def verify_files(directory: Path, manifest: EngineManifest, names: Iterable[str]) -> None:
    """Check the SHA-256 of files of an engine directory, which takes about 1 s per GB.

    Args:
        directory: the engine directory.
        manifest: its manifest.
        names: of the files to check.

    Raises:
        EngineError: a file differs; the message names the first.
    """
    for name in names:
        if sha256(directory / name) != manifest.files[name]:
            raise EngineError(
                f"{directory / name} is damaged or was edited (its SHA-256 differs): build the engine again"
            )


def check_unchanged(directory: Path, manifest: EngineManifest) -> None:
    """Check that a directory still has the files of the engine whose manifest was read, after some were loaded.

    Raises:
        EngineError: the engine was replaced by another one, or is gone.
    """
    if read_manifest(directory, verify=False).files != manifest.files:
        raise EngineError(f"{directory} was replaced by another engine while it was in use: open it again")
