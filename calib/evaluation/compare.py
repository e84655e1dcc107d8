"""Compare the tensors of two engines of one model on the same prompt, with polygraphy and ONNX Runtime on the CPU.

Lowering keeps the names of the intermediate values of the traced graph, so that values which both graphs still have
can be compared layer by layer, in the order in which the reference computes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgekiln.calib.evaluation.graph_scorer import first_feeds, open_graph
from edgekiln.calib.tensorrt.quiet_polygraphy import require_polygraphy
from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import RequestError
from edgekiln.runtimes.tensorrt.profiles import cache_parts

Arrays = dict[str, npt.NDArray[Any]]
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


@dataclass(frozen=True)
class Difference:
    """Difference of one tensor between an engine and its reference.

    Attributes:
        name: name of the tensor in the graph.
        absolute: largest absolute difference of two elements.
        relative: L2 norm of the difference over that of the reference.
        cosine: cosine similarity.
    """

    name: str
    absolute: float
    relative: float
    cosine: float


@dataclass(frozen=True)
class Side:
    """One of the two engines: its directory and its manifest."""

    directory: Path
    manifest: EngineManifest


def compare(
    engine: Side,
    reference: Side,
    tokens: npt.NDArray[np.int64],
    layers: bool = False,
    threads: int | None = None,
) -> list[Difference]:
    """Run a prompt through both engines and compare their logits, keys and values.

    Args:
        engine, reference: engines of one model, for any targets.
        tokens: int64 [S], the prompt.
        layers: also compare the intermediate values that both graphs have. ONNX Runtime does not fuse across them.
        threads: of ONNX Runtime.

    Returns:
        One entry per tensor, in the order in which the reference computes them; the graph's outputs come last.

    Raises:
        RequestError: the engines differ in shape, or the prompt is longer than the KV cache of one of them.
        EdgekilnError: polygraphy or ONNX Runtime is missing, or a graph cannot be run.
    """
    require_polygraphy("comparing", "pip install polygraphy")
    _check(engine, reference, tokens)
    intermediate = _common_values(engine, reference) if layers else []
    outputs = [_run(side, tokens, intermediate, threads) for side in (engine, reference)]
    return _differences(outputs[0], outputs[1])


def first_apart(differences: Sequence[Difference], tolerance: float) -> Difference | None:
    """The first tensor whose relative difference exceeds `tolerance`; None if no difference does."""
    return next((found for found in differences if not found.relative <= tolerance), None)


def _check(engine: Side, reference: Side, tokens: npt.NDArray[np.int64]) -> None:
    ours, theirs = engine.manifest.architecture, reference.manifest.architecture
    for name in ("model_type", "vocab_size", "hidden_size", "layers", "kv_heads", "head_dims"):
        if getattr(ours, name) != getattr(theirs, name):
            raise RequestError(
                f"{name.replace('_', ' ')} is {getattr(ours, name)} in {engine.directory} and {getattr(theirs, name)} "
                f"in {reference.directory}: compare engines of one model"
            )
    most = min(ours.max_length, theirs.max_length)
    if not 1 <= len(tokens) <= most:
        raise RequestError(f"prompt has {len(tokens)} tokens, the engines hold {most}: give 1 to {most}")


def _graph(side: Side) -> onnx.ModelProto:
    return onnx.load(side.directory / side.manifest.graphs["score"], load_external_data=False)


def _common_values(engine: Side, reference: Side) -> list[str]:
    """Names of floating-point intermediate values that both graphs have, in the order of the reference."""
    names = []
    for side in (engine, reference):
        model = _graph(side)
        known = onnx.shape_inference.infer_shapes(model).graph
        floats = {value.name for value in known.value_info if value.type.tensor_type.elem_type in _FLOATS}
        names.append([name for node in model.graph.node for name in node.output if name in floats])
    ours = set(names[0])
    return [name for name in names[1] if name in ours]


def _run(side: Side, tokens: npt.NDArray[np.int64], intermediate: list[str], threads: int | None) -> Arrays:
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.comparator import Comparator

    session = open_graph(side.directory, side.manifest, threads, intermediate)
    runner = OnnxrtRunner(session, name=str(side.directory))
    ((_, (result,)),) = Comparator.run([runner], data_loader=[first_feeds(side.manifest, tokens)]).items()
    found = {name: np.asarray(value) for name, value in result.items()}
    # A KV cache of fixed size has unused positions after the prompt.
    for part in cache_parts(side.manifest):
        found[part.present] = found[part.present][:, :, : len(tokens)]
    order = [*intermediate, *(name for name in found if name not in intermediate)]
    return {name: found[name] for name in order}


def _differences(ours: Arrays, theirs: Arrays) -> list[Difference]:
    from polygraphy.comparator import Comparator, CompareFunc, RunResults
    from polygraphy.comparator.compare import CosineSimilarityCompareFunc, L2CompareFunc

    shared = [name for name in theirs if name in ours and ours[name].shape == theirs[name].shape]
    runs = RunResults()
    for runner, arrays in (("engine", ours), ("reference", theirs)):
        # Compared in float32, since a difference of float16 values may not be representable in float16.
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
