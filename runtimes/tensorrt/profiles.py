"""Checks of a plan before the first run: its optimization profiles, and whether it matches engine.json."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgekiln.engine.graph_io import GraphIO, in_layer, of_state
from edgekiln.engine.manifest import EngineManifest, TensorRTBuild
from edgekiln.errors import EngineError, RequestError
from edgekiln.runtimes.cuda.device import ALIGNMENT

ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """An optimization profile: the input shapes [batch, tokens] that one run may have.

    Attributes:
        batch: smallest and largest batch size.
        tokens: smallest and largest number of tokens per sequence.
    """

    batch: tuple[int, int]
    tokens: tuple[int, int]

    def supports(self, batch: int, tokens: int) -> bool:
        """Whether the profile covers a run of `batch` sequences with `tokens` tokens each."""
        return self.batch[0] <= batch <= self.batch[1] and self.tokens[0] <= tokens <= self.tokens[1]


@dataclass(frozen=True)
class CachePart:
    """The keys or the values of one layer.

    Attributes:
        past, present: names of the graph's input and output.
        heads: number of key-value heads.
        head_dim: elements of a head.
    """

    past: str
    present: str
    heads: int
    head_dim: int


def read_profiles(plan: Any, io: GraphIO) -> list[Profile]:
    """The optimization profiles of a deserialized plan (ICudaEngine), in order."""
    profiles = []
    for index in range(plan.num_optimization_profiles):
        least, _, most = (tuple(shape) for shape in plan.get_tensor_profile_shape(io.input_ids, index))
        profiles.append(Profile((least[0], most[0]), (least[1], most[1])))
    return profiles


def profile_for(profiles: list[Profile], batch: int, tokens: int) -> int:
    """Index of the profile for a run: of those that support it, the one with the smallest maximum of tokens.

    Raises:
        RequestError: no profile supports a run of `batch` sequences with `tokens` tokens each.
    """
    fitting = [index for index, profile in enumerate(profiles) if profile.supports(batch, tokens)]
    if not fitting:
        most = largest_batch(profiles)
        if batch > most:
            raise RequestError(
                f"batch size {batch} is above the {most} that the engine was built for: "
                f"build it with --max-batch {batch}"
            )
        ranges = ", ".join(
            f"{p.batch[0]} to {p.batch[1]} sequences of {p.tokens[0]} to {p.tokens[1]}" for p in profiles
        )
        raise RequestError(f"the engine takes {ranges} tokens a run, not {batch} sequences of {tokens}: build it again")
    return min(fitting, key=lambda index: profiles[index].tokens[1])


def largest_batch(profiles: list[Profile]) -> int:
    """Largest batch size of a decode step."""
    return max((profile.batch[1] for profile in profiles if profile.tokens[0] <= 1), default=0)


def largest_chunk(profiles: list[Profile]) -> int:
    """Most tokens that one prefill run takes."""
    return max((profile.tokens[1] for profile in profiles if profile.batch[0] <= 1), default=0)


def cache_parts(manifest: EngineManifest) -> list[CachePart]:
    """Keys and values of each KV cache layer: keys of layer 0, values of layer 0, keys of layer 1, ..."""
    io, model = manifest.io, manifest.architecture
    parts = []
    for layer, (heads, size) in enumerate(zip(model.kv_heads, model.head_dims, strict=True)):
        for past, present in ((io.past_key, io.present_key), (io.past_value, io.present_value)):
            parts.append(CachePart(in_layer(past, layer), in_layer(present, layer), heads, size))
    return parts


def check_layout(manifest: EngineManifest) -> TensorRTBuild:
    """The `tensorrt` section of engine.json.

    Raises:
        EngineError: there is none, or this adapter does not support the KV cache's layout.
    """
    if manifest.tensorrt is None or "plan" not in manifest.graphs:
        raise EngineError(f"engine.json names no plan for target {manifest.target}: build the engine again")
    kv_cache = manifest.kv_cache
    if kv_cache.layout not in ("in-place", "growing") or kv_cache.dtype not in ITEM_SIZES:
        raise EngineError(
            f"the engine's KV cache layout is {kv_cache.layout} {kv_cache.dtype}, {manifest.target} runs in-place "
            f"or growing, {' or '.join(ITEM_SIZES)}: build the engine again"
        )
    return manifest.tensorrt


def check_plan(plan: Any, manifest: EngineManifest) -> None:
    """Check that the inputs and outputs of a deserialized plan (ICudaEngine) for keys, values and states match
    engine.json.

    Raises:
        EngineError: naming the first that does not.
    """
    found = {name for name in map(plan.get_tensor_name, range(plan.num_io_tensors))}
    in_place = manifest.kv_cache.layout == "in-place"
    capacity = manifest.architecture.max_length if in_place else -1
    for name, shape, dtype in _tensors(manifest, capacity):
        if name not in found:
            raise EngineError(f"the plan has no input or output {name}: build the engine again")
        actual = tuple(plan.get_tensor_shape(name))
        if actual[1:] != shape:
            raise EngineError(
                f"the plan's {name} is {list(actual)}, engine.json says {[-1, *shape]}: build the engine again"
            )
        kind = plan.get_tensor_dtype(name).name
        if kind != _TYPES[dtype]:
            raise EngineError(f"the plan's {name} is {kind}, engine.json says {dtype}: build it again")
    for part in cache_parts(manifest) if in_place else ():
        # TensorRT may overwrite an input only if the plan declares the output as its alias.
        if plan.get_aliased_input_tensor(part.present) != part.past:
            raise EngineError(f"the plan does not update {part.past} in place: build the engine with --cache growing")


def _tensors(manifest: EngineManifest, capacity: int) -> Iterator[tuple[str, Shape, str]]:
    """Name, shape without the batch, and type of each input and output for keys, values and states."""
    for part in cache_parts(manifest):
        for name in (part.past, part.present):
            yield name, (part.heads, capacity, part.head_dim), manifest.kv_cache.dtype
    for number, state in enumerate(manifest.kv_cache.states):
        for name in (manifest.io.past_state, manifest.io.present_state):
            yield of_state(name, number), tuple(state.shape), state.dtype


def why_refused(build: TensorRTBuild, version: str, capability: str, error: str) -> str:
    """Error message for a plan that the library refuses to deserialize, with the likely reason.

    Args:
        build: the `tensorrt` section of engine.json.
        version: version of this machine's library.
        capability: compute capability of this machine's GPU.
        error: the library's error message.
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


def check_alignment(parts: list[CachePart], capacity: int, itemsize: int) -> None:
    """Check that every sequence of an in-place cache begins at an address that TensorRT accepts.

    Raises:
        RequestError: the size of a sequence is not a multiple of `ALIGNMENT`.
    """
    for part in parts:
        size = part.heads * capacity * part.head_dim * itemsize
        if size % ALIGNMENT:
            raise RequestError(
                f"a sequence of {part.past} has {size} bytes, no multiple of {ALIGNMENT}, so the sequences of a batch "
                f"cannot be prefilled separately: use a batch of 1, or build with a --max-length that is a multiple of "
                f"{ALIGNMENT}"
            )
