"""What a TensorRT engine takes, read from it and checked before anything runs; no device is needed for that."""

from dataclasses import dataclass
from typing import Any

from edgekiln.engine.manifest import EngineManifest, GraphIO, TensorRTBuild
from edgekiln.errors import EngineError, RequestError
from edgekiln.runtimes.cuda.device import ALIGNMENT

ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """An optimization profile: the least and the most that one run takes.

    Attributes:
        rows: of a batch.
        tokens: of each row.
    """

    rows: tuple[int, int]
    tokens: tuple[int, int]

    def takes(self, rows: int, tokens: int) -> bool:
        """Whether a run of that size is in range."""
        return self.rows[0] <= rows <= self.rows[1] and self.tokens[0] <= tokens <= self.tokens[1]


@dataclass(frozen=True)
class CachePart:
    """Keys, or values, of one layer: the graph's names for them, and elements of a token."""

    past: str
    present: str
    heads: int
    head_dim: int


def read_profiles(engine: Any, io: GraphIO) -> list[Profile]:
    """The profiles of an ICudaEngine."""
    profiles = []
    for index in range(engine.num_optimization_profiles):
        least, _, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(io.input_ids, index))
        profiles.append(Profile((least[0], most[0]), (least[1], most[1])))
    return profiles


def profile_for(profiles: list[Profile], rows: int, tokens: int) -> int:
    """The index of the profile for a run: of those that take it, the one for the fewest tokens, which fits closest.

    Raises:
        RequestError: none takes it.
    """
    fitting = [index for index, profile in enumerate(profiles) if profile.takes(rows, tokens)]
    if not fitting:
        most = largest_batch(profiles)
        if rows > most:
            raise RequestError(
                f"batch size {rows} is above the {most} that the engine was built for: build it with --max-batch {rows}"
            )
        ranges = ", ".join(f"{p.rows[0]} to {p.rows[1]} rows of {p.tokens[0]} to {p.tokens[1]}" for p in profiles)
        raise RequestError(f"the engine takes {ranges} tokens a run, not {rows} rows of {tokens}: build it again")
    return min(fitting, key=lambda index: profiles[index].tokens[1])


def largest_batch(profiles: list[Profile]) -> int:
    """Rows that can be stepped together: of the profiles that take single tokens."""
    return max((profile.rows[1] for profile in profiles if profile.tokens[0] <= 1), default=0)


def largest_chunk(profiles: list[Profile]) -> int:
    """Tokens of one row that a run takes at most."""
    return max((profile.tokens[1] for profile in profiles if profile.rows[0] <= 1), default=0)


def cache_parts(manifest: EngineManifest) -> list[CachePart]:
    """Keys and values of each layer, in order."""
    io, model = manifest.io, manifest.architecture
    parts = []
    for layer, (heads, size) in enumerate(zip(model.kv_heads, model.head_dims, strict=True)):
        for past, present in ((io.past_key, io.present_key), (io.past_value, io.present_value)):
            parts.append(CachePart(past.format(layer=layer), present.format(layer=layer), heads, size))
    return parts


def check_layout(manifest: EngineManifest) -> TensorRTBuild:
    """What engine.json says of the plan.

    Raises:
        EngineError: it says nothing, or its cache is of a kind that this adapter does not run.
    """
    if manifest.tensorrt is None or "plan" not in manifest.graphs:
        raise EngineError(f"engine.json names no plan for target {manifest.target}: build the engine again")
    if manifest.kv_cache.layout not in ("in-place", "growing") or manifest.kv_cache.dtype not in ITEM_SIZES:
        raise EngineError(
            f"the engine's key-value layout is {manifest.kv_cache.layout} {manifest.kv_cache.dtype}, {manifest.target} runs in-place "
            f"or growing, {' or '.join(ITEM_SIZES)}: build the engine again"
        )
    return manifest.tensorrt


def check_engine(engine: Any, manifest: EngineManifest) -> None:
    """Whether a plan is what engine.json says, by its inputs and outputs.

    Raises:
        EngineError: naming the first that is not.
    """
    found = {name for name in map(engine.get_tensor_name, range(engine.num_io_tensors))}
    in_place = manifest.kv_cache.layout == "in-place"
    slots = manifest.architecture.max_length if in_place else -1
    for part in cache_parts(manifest):
        for name in (part.past, part.present):
            if name not in found:
                raise EngineError(f"the plan has no input or output {name}: build the engine again")
            shape = tuple(engine.get_tensor_shape(name))
            if shape[1:] != (part.heads, slots, part.head_dim):
                raise EngineError(
                    f"the plan's {name} is {list(shape)}, engine.json says "
                    f"{[-1, part.heads, slots, part.head_dim]}: build the engine again"
                )
            dtype = engine.get_tensor_dtype(name).name
            if dtype != _TYPES[manifest.kv_cache.dtype]:
                raise EngineError(f"the plan's {name} is {dtype}, engine.json says {manifest.kv_cache.dtype}: build it again")
        # Writing over what is read is right only where the library knows of it.
        if in_place and engine.get_aliased_input_tensor(part.present) != part.past:
            raise EngineError(f"the plan does not update {part.past} in place: build the engine with --cache growing")


def why_refused(build: TensorRTBuild, version: str, capability: str, error: str) -> str:
    """One sentence on a plan that the library did not take.

    Args:
        build: what it was compiled by and for.
        version: of the library here.
        capability: compute capability of the GPU here.
        error: what the library said.
    """
    if build.version != version:
        return (
            f"the plan was built with {build.library} {build.version}, this machine has {version}: "
            f"build the engine again here, or install {build.library} {build.version}"
        )
    if capability not in build.compute_capabilities:
        fix = "build the engine on it"
        if build.library == "tensorrt_rtx":
            fix = f"build the engine with --sm {capability}, or for ort-cuda if TensorRT-RTX does not run there"
        return (
            f"the plan was built for compute capability {', '.join(build.compute_capabilities)}, this GPU has "
            f"{capability}: {fix}"
        )
    return f"{build.library} {version} cannot load the plan ({error}): build the engine again"


def check_rows_are_aligned(parts: list[CachePart], capacity: int, itemsize: int) -> None:
    """Whether every row of an in-place cache begins where TensorRT takes an address.

    Raises:
        RequestError: a row does not.
    """
    for part in parts:
        size = part.heads * capacity * part.head_dim * itemsize
        if size % ALIGNMENT:
            raise RequestError(
                f"a row of {part.past} has {size} bytes, no multiple of {ALIGNMENT}, so rows of a batch cannot be "
                f"prefilled alone: use a batch of 1, or build with a --max-length that is a multiple of {ALIGNMENT}"
            )
