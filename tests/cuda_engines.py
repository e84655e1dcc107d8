"""Engines of target ort-cuda, run with the device named cpu: all but the provider is what a GPU gets."""

from pathlib import Path

import onnx_ir as ir

from edgekiln import bundle
from edgekiln.export.build import Clock, canonical_graph, write_engine
from edgekiln.export.lower import ort_cuda
from edgekiln.export.options import BuildOptions
from edgekiln.export.passes.scoring import all_positions
from edgekiln.export.weights_file import WeightsFile, save_graph
from edgekiln.runtimes.ort_cuda import OrtCudaRuntime
from edgekiln.sources import ModelSource


def write_cuda_engine(source: ModelSource, directory: Path, quant: str) -> ir.Model:
    """Build `source` at `directory`, uncalibrated, and return its canonical graph."""
    directory.mkdir(parents=True)
    canonical = canonical_graph(source, BuildOptions(quant=quant))
    traced = canonical.graph.clone()
    graph = canonical.graph.clone()
    manifest = write_engine(canonical, source, directory, BuildOptions(quant=quant), Clock())
    ort_cuda.lower(graph, manifest.architecture.max_length)
    with WeightsFile(directory, bundle.WEIGHTS_FILE) as weights:
        weights.store(graph)
    save_graph(graph, directory / "generate.onnx")
    all_positions(graph)
    save_graph(graph, directory / "score.onnx")
    save_graph(ort_cuda.growth_graph(), directory / "grow.onnx")
    fields = manifest.model_dump(exclude={"files"}) | {
        "target": "ort-cuda",
        "graphs": manifest.graphs | {"grow": "grow.onnx"},
        "io": bundle.GraphIO(total_length=ort_cuda.TOTAL_LENGTH),
        "kv": bundle.KeyValueLayout(kind=ort_cuda.KEY_VALUE_KIND, dtype=ort_cuda.KEY_VALUE_TYPE),
    }
    bundle.write_manifest(directory, **fields)
    return traced


def open_on_cpu(engine: Path, chunk: int | None = None, cuda_graph: bool = False) -> OrtCudaRuntime:
    """The adapter on the CPU."""
    return OrtCudaRuntime(engine, bundle.read_manifest(engine), chunk=chunk, device="cpu", cuda_graph=cuda_graph)
