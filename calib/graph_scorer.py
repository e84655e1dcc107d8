"""Scores with an engine's graph in ONNX Runtime on the CPU, whatever target it was built for.

Every target's directory holds the graph that its runtime runs or was compiled from; so the quality of a lowering is
measured where its runtime does not run. Kernels round as a CPU does.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

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
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BundleError(f"ONNX Runtime {ort.__version__} cannot load {path}: {first_line(error)}") from error
    empty = _EmptyCache(manifest)

    def score(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        io = manifest.io
        feeds = {io.input_ids: tokens[None], io.position_ids: np.arange(len(tokens))[None], **empty(len(tokens))}
        logits: npt.NDArray[np.float32] = session.run([io.logits], feeds)[0]
        return logits[0]

    return score


class _EmptyCache:
    """Past keys and values of a sequence that is about to begin; kept while its length stays."""

    def __init__(self, manifest: EngineManifest) -> None:
        self._manifest = manifest
        self._made: tuple[int, dict[str, npt.NDArray[np.generic]]] = (-1, {})

    def __call__(self, tokens: int) -> dict[str, npt.NDArray[np.generic]]:
        model, io, kv = self._manifest.architecture, self._manifest.io, self._manifest.kv
        slots = {"inplace": model.max_length, "growing": 0, "shared-buffer": tokens}[kv.kind]
        if self._made[0] != slots:
            made: dict[str, npt.NDArray[np.generic]] = {}
            for layer, (heads, size) in enumerate(zip(model.kv_heads, model.head_dims, strict=True)):
                for name in (io.past_key, io.past_value):
                    made[name.format(layer=layer)] = np.zeros((1, heads, slots, size), _TYPES[kv.dtype])
            self._made = slots, made
        total = {} if io.total_length is None else {io.total_length: np.array([tokens], dtype=np.int32)}
        return self._made[1] | total
