"""Check a graph against engine.json, so that a name or size that does not fit is an error at load and not in a run.

Counterpart of cpp/src/runtime/ort/graph_io.h.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekiln.engine.directory import ENGINE_FILE
from edgekiln.engine.graph_io import in_layer, of_state, of_window
from edgekiln.engine.manifest import EngineManifest
from edgekiln.engine.schema import damaged, shown
from edgekiln.runtimes.ort.library import onnxruntime as ort

_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "bfloat16": "tensor(bfloat16)",
    "int8": "tensor(int8)",
}


def check_graph(session: ort.InferenceSession, path: Path, manifest: EngineManifest, role: str) -> None:
    """Check that a graph has the inputs and outputs that engine.json names, and its sizes.

    Args:
        session: the graph.
        path: its file, in the engine directory.
        manifest: engine.json.
        role: "generate" or "score", which has no `logits_to_keep`.

    Raises:
        EngineError: naming the first field of engine.json that does not fit.
    """
    for reason in _mismatches(session, path.name, manifest, role):
        raise damaged(path.parent / ENGINE_FILE, reason)


def _mismatches(session: ort.InferenceSession, file: str, manifest: EngineManifest, role: str) -> Iterator[str]:
    names, sizes = manifest.io, manifest.architecture
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    known = set()
    for field, name in _named_inputs(manifest, role):
        known.add(name)
        if name not in inputs:
            yield f"io.{field}: {file} has no input {shown(name)}"
    if names.logits not in outputs:
        yield f"io.logits: {file} has no output {shown(names.logits)}"
    elif outputs[names.logits].shape[-1:] != [sizes.vocab_size]:
        yield f"architecture.vocab_size: {shown(names.logits)} of {file} is not of {sizes.vocab_size} tokens"
    for layer, (heads, size) in enumerate(zip(sizes.kv_heads, sizes.head_dims, strict=True)):
        for field in ("past_key", "past_value", "present_key", "present_value"):
            values, kind = (inputs, "input") if field.startswith("past") else (outputs, "output")
            name = in_layer(getattr(names, field), layer)
            known.add(name)
            if name not in values:
                yield f"io.{field}: {file} has no {kind} {shown(name)}"
            elif values[name].type != _TYPES[manifest.kv_cache.dtype]:
                yield f"kv_cache.dtype: {shown(name)} of {file} is not {manifest.kv_cache.dtype}"
            elif values[name].shape[1::2] != [heads, size]:
                yield f"architecture: {shown(name)} of {file} is not of {heads} heads of size {size}"
    for state in range(len(manifest.kv_cache.states)):
        known |= {of_state(name, state) for name in (names.past_state, names.present_state)}
        yield from _state_mismatches(inputs, outputs, file, manifest, state)
    for name in inputs:
        if name not in known:
            yield f"io: {file} has the input {shown(name)}, which no field names"


def _state_mismatches(
    inputs: dict[str, Any], outputs: dict[str, Any], file: str, manifest: EngineManifest, state: int
) -> Iterator[str]:
    names, spec = manifest.io, manifest.kv_cache.states[state]
    for field, values, kind in (("past_state", inputs, "input"), ("present_state", outputs, "output")):
        name = of_state(getattr(names, field), state)
        if name not in values:
            yield f"io.{field}: {file} has no {kind} {shown(name)}"
        elif values[name].type != _TYPES[spec.dtype]:
            yield f"kv_cache.states.{state}.dtype: {shown(name)} of {file} is not {spec.dtype}"
        elif values[name].shape[1:] != spec.shape or not values[name].shape:
            shape = ", ".join(map(str, spec.shape))
            yield f"kv_cache.states.{state}.shape: {shown(name)} of {file} is not of shape [{shape}]"


def _named_inputs(manifest: EngineManifest, role: str) -> Iterator[tuple[str, str]]:
    """Field of `io` and name of each input but past keys, values and states."""
    names = manifest.io
    for field in ("input_ids", "position_ids", "total_length", "logits_to_keep", "sequence_length"):
        name = getattr(names, field)
        if name is not None and (field != "logits_to_keep" or role == "generate"):
            yield field, name
    for window in sorted(set(manifest.kv_cache.windows) - {0}):
        yield "window_start", of_window(names.window_start or "", window)
