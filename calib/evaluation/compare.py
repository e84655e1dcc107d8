"""Where two engines part: the same tokens through both graphs in ONNX Runtime on the CPU, compared by polygraphy.

Graphs of one model keep the names that tracing gave to values in between, as far as lowering left those values; so they
can be compared layer by layer, in the reference's order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgekiln.calib.evaluation.graph_scorer import first_feeds, open_graph
from edgekiln.calib.tensorrt.quiet_polygraphy import need_polygraphy
from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import RequestError
from edgekiln.runtimes.tensorrt.profiles import cache_parts

Arrays = dict[str, npt.NDArray[Any]]
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


@dataclass(frozen=True)
class Difference:
    """How far one tensor of an engine is from the reference's.

    Attributes:
        name: of the tensor in the graph.
        absolute: the largest difference of two elements.
        relative: Euclidean norm of the difference over that of the reference.
        cosine: cosine of the angle between the two.
    """

    name: str
    absolute: float
    relative: float
    cosine: float


@dataclass(frozen=True)
class Side:
    """One of the two engines: its directory, checked, and what engine.json says."""

    directory: Path
    manifest: EngineManifest


def compare(
    engine: Side,
    reference: Side,
    tokens: npt.NDArray[np.int64],
    layers: bool = False,
    threads: int | None = None,
) -> list[Difference]:
    """Run both and compare logits, keys and values, and with `layers` all that both name in between.

    Args:
        engine, reference: of one model, for any targets.
        tokens: int64 [S], a prompt.
        layers: compare what is in between too; kernels that fuse it are then not used.
        threads: of ONNX Runtime.

    Returns:
        What was compared, in the order in which the reference computes it; what comes out of a graph last.

    Raises:
        RequestError: the engines differ in shape, or the prompt is longer than one holds.
        EdgekilnError: polygraphy or ONNX Runtime is missing, or a graph cannot be run.
    """
    need_polygraphy("comparing", "pip install polygraphy")
    _check(engine, reference, tokens)
    between = _common(engine, reference) if layers else []
    outputs = [_run(side, tokens, between, threads) for side in (engine, reference)]
    return _differences(outputs[0], outputs[1])


def first_apart(differences: Sequence[Difference], tolerance: float) -> Difference | None:
    """The first whose relative difference is over `tolerance`."""
    return next((found for found in differences if not found.relative <= tolerance), None)


def _check(engine: Side, reference: Side, tokens: npt.NDArray[np.int64]) -> None:
    ours, theirs = engine.manifest.architecture, reference.manifest.architecture
    for what in ("model_type", "vocab_size", "hidden_size", "layers", "kv_heads", "head_dims"):
        if getattr(ours, what) != getattr(theirs, what):
            raise RequestError(
                f"{what.replace('_', ' ')} is {getattr(ours, what)} in {engine.directory} and {getattr(theirs, what)} "
                f"in {reference.directory}: compare engines of one model"
            )
    most = min(ours.max_length, theirs.max_length)
    if not 1 <= len(tokens) <= most:
        raise RequestError(f"prompt has {len(tokens)} tokens, the engines hold {most}: give 1 to {most}")


def _graph(side: Side) -> onnx.ModelProto:
    return onnx.load(side.directory / side.manifest.graphs["score"], load_external_data=False)


def _common(engine: Side, reference: Side) -> list[str]:
    """Names of values in between that both graphs compute in floating point, in the reference's order."""
    names = []
    for side in (engine, reference):
        model = _graph(side)
        known = onnx.shape_inference.infer_shapes(model).graph
        floats = {value.name for value in known.value_info if value.type.tensor_type.elem_type in _FLOATS}
        names.append([name for node in model.graph.node for name in node.output if name in floats])
    ours = set(names[0])
    return [name for name in names[1] if name in ours]


def _run(side: Side, tokens: npt.NDArray[np.int64], between: list[str], threads: int | None) -> Arrays:
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.comparator import Comparator

    session = open_graph(side.directory, side.manifest, threads, between)
    runner = OnnxrtRunner(session, name=str(side.directory))
    ((_, (result,)),) = Comparator.run([runner], data_loader=[first_feeds(side.manifest, tokens)]).items()
    found = {name: np.asarray(value) for name, value in result.items()}
    # A cache of fixed size has slots behind the tokens.
    for part in cache_parts(side.manifest):
        found[part.present] = found[part.present][:, :, : len(tokens)]
    order = [*between, *(name for name in found if name not in between)]
    return {name: found[name] for name in order}


def _differences(ours: Arrays, theirs: Arrays) -> list[Difference]:
    from polygraphy.comparator import Comparator, CompareFunc, RunResults
    from polygraphy.comparator.compare import CosineSimilarityCompareFunc, L2CompareFunc

    shared = [name for name in theirs if name in ours and ours[name].shape == theirs[name].shape]
    runs = RunResults()
    for runner, arrays in (("engine", ours), ("reference", theirs)):
        # In one precision: a difference of binary16 numbers may not be one.
        runs.add([{name: arrays[name].astype(np.float32) for name in shared}], runner_name=runner)
    results = Comparator.compare_accuracy(
        runs, compare_func=[CompareFunc.simple(), CosineSimilarityCompareFunc(), L2CompareFunc()]
    )
    simple, cosine, norm = (next(iter(result.values()))[0] for result in results)
    return [
        Difference(
            name,
            simple[name].max_absdiff,
            norm[name].l2_norm / max(float(np.linalg.norm(theirs[name].astype(np.float32))), 1e-30),
            cosine[name].cosine_similarity,
        )
        for name in shared
    ]
