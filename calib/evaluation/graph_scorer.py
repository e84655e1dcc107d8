"""Score text with the graph of an engine for any target, run by ONNX Runtime on the CPU.

The engine directory of every target holds the ONNX graph that its runtime runs or that was compiled. So the quality of
an engine can be measured on machines where its runtime does not run. Rounding is that of the CPU's kernels.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekiln.calib.evaluation.perplexity import Scorer
from edgekiln.engine.graph_io import of_state, of_window
from edgekiln.engine.manifest import EngineManifest
from edgekiln.engine.utf8_path import utf8_path
from edgekiln.errors import EdgekilnError
from edgekiln.runtimes.tensorrt.profiles import cache_parts
from edgekiln.runtimes.threads import checked_threads, default_threads


def graph_scorer(directory: Path, manifest: EngineManifest, threads: int | None = None) -> Scorer:
    """A function from int64 tokens [S] to float32 logits [S, V] that runs the engine's `score` graph.

    Raises:
        EngineError: ONNX Runtime rejects the graph.
        EdgekilnError: ONNX Runtime is missing, or has no CPU kernels for the graph's type; or see `checked_threads`.
    """
    session = open_graph(directory, manifest, threads)

    def score(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = session.run([manifest.io.logits], first_feeds(manifest, tokens))[0]
        return logits[0]

    return score


def open_graph(directory: Path, manifest: EngineManifest, threads: int | None, also: Sequence[str] = ()) -> Any:
    """Open the `score` graph as an InferenceSession on the CPU, with the intermediate values `also` as outputs too.

    Raises:
        EngineError: ONNX Runtime rejects the graph.
        EdgekilnError: ONNX Runtime is missing, or has no CPU kernels for the graph's type; or see `checked_threads`.
    """
    try:
        from edgekiln.runtimes.ort.cpu import CACHE_DTYPES
        from edgekiln.runtimes.ort.library import LOG_FATAL
        from edgekiln.runtimes.ort.library import onnxruntime as ort
        from edgekiln.runtimes.ort.runtime import load_error, open_session
    except ImportError as error:
        raise EdgekilnError("running graphs needs ONNX Runtime: pip install 'edgekiln[cpu]'") from error
    if manifest.kv_cache.dtype not in CACHE_DTYPES:
        raise EdgekilnError(
            f"ONNX Runtime has no CPU kernels for {manifest.kv_cache.dtype}: build the engine with --dtype float16 to "
            "measure it"
        )
    options = ort.SessionOptions()
    options.log_severity_level = LOG_FATAL
    options.intra_op_num_threads = checked_threads(threads) or default_threads()
    path = directory / manifest.graphs["score"]
    try:
        if not also:
            return open_session(path, options, ["CPUExecutionProvider"])
        import onnx  # not needed for scoring alone

        model = onnx.load(path, load_external_data=False)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in also)
        with utf8_path(path) as name:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", os.path.dirname(name)
            )
            return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise load_error(path, error) from error


def first_feeds(manifest: EngineManifest, tokens: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """Inputs of the graph for int64 tokens [S] at the start of a sequence, with an empty KV cache and zero states."""
    io, kv = manifest.io, manifest.kv_cache
    slots = {"in-place": manifest.architecture.max_length, "growing": 0, "shared-buffer": len(tokens)}[kv.layout]
    feeds = {io.input_ids: tokens[None], io.position_ids: np.arange(len(tokens))[None]}
    past = {part.past: np.zeros((1, part.heads, slots, part.head_dim), kv.dtype) for part in cache_parts(manifest)}
    total = {} if io.total_length is None else {io.total_length: np.array([len(tokens)], dtype=np.int32)}
    length = {} if io.sequence_length is None else {io.sequence_length: np.array([len(tokens)])}
    windows = set(kv.windows) - {0}
    starts = {of_window(io.window_start or "", window): np.zeros(1, dtype=np.int64) for window in windows}
    states = {of_state(io.past_state, i): np.zeros((1, *s.shape), s.dtype) for i, s in enumerate(kv.states)}
    return feeds | past | total | length | starts | states
