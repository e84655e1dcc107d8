"""Scores with an engine's graph in ONNX Runtime on the CPU, whatever target it was built for.

Every target's directory holds the graph that its runtime runs or was compiled from; so the quality of a lowering is
measured where its runtime does not run. Kernels round as a CPU does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgekiln.bundle import EngineManifest
from edgekiln.calib.evaluate import Scorer
from edgekiln.errors import BundleError, EdgekilnError, first_line

# Of graphs that ONNX Runtime has CPU kernels for.
_TYPES = {"float32": np.float32, "float16": np.float16, "int8": np.int8}
_LOG_ERRORS_ONLY = 3


def graph_scorer(directory: Path, manifest: EngineManifest, threads: int | None = None) -> Scorer:
    """The engine's `score` graph as a function of int64 [S] tokens to float32 [S, V] logits.

    Raises:
        BundleError: ONNX Runtime refuses the graph.
        EdgekilnError: ONNX Runtime is missing, or has no CPU kernels for the graph's type.
    """
    session = open_graph(directory, manifest, threads)
    kept: tuple[int, dict[str, npt.NDArray[Any]]] = (0, {})

    def score(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        nonlocal kept
        if kept[0] != len(tokens):
            kept = len(tokens), empty_cache(manifest, len(tokens))
        io = manifest.io
        feeds = {io.input_ids: tokens[None], io.position_ids: np.arange(len(tokens))[None], **kept[1]}
        logits: npt.NDArray[np.float32] = session.run([io.logits], feeds)[0]
        return logits[0]

    return score


def open_graph(directory: Path, manifest: EngineManifest, threads: int | None, also: Sequence[str] = ()) -> Any:
    """The `score` graph as an InferenceSession on the CPU, with the values named in `also` among its outputs.

    Raises:
        BundleError: ONNX Runtime refuses the graph.
        EdgekilnError: ONNX Runtime is missing, or has no CPU kernels for the graph's type.
    """
    if manifest.kv.dtype not in _TYPES:
        raise EdgekilnError(
            f"ONNX Runtime has no CPU kernels for {manifest.kv.dtype}: build the engine with --dtype float16 to "
            "measure it"
        )
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise EdgekilnError("running graphs needs ONNX Runtime: pip install 'edgekiln[cpu]'") from error
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    path = directory / manifest.graphs["score"]
    given: str | bytes = str(path)
    if also:
        model = onnx.load(path, load_external_data=False)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in also)
        given = model.SerializeToString()
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(directory))
    try:
        return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BundleError(f"ONNX Runtime {ort.__version__} cannot load {path}: {first_line(error)}") from error


def empty_cache(manifest: EngineManifest, tokens: int) -> dict[str, npt.NDArray[Any]]:
    """Past keys and values of a sequence that is about to begin with so many tokens, as the graph takes them."""
    model, io, kv = manifest.architecture, manifest.io, manifest.kv
    slots = {"inplace": model.max_length, "growing": 0, "shared-buffer": tokens}[kv.kind]
    made: dict[str, npt.NDArray[Any]] = {}
    for layer, (heads, size) in enumerate(zip(model.kv_heads, model.head_dims, strict=True)):
        for name in (io.past_key, io.past_value):
            made[name.format(layer=layer)] = np.zeros((1, heads, slots, size), _TYPES[kv.dtype])
    if io.total_length is not None:
        made[io.total_length] = np.array([tokens], dtype=np.int32)
    return made
