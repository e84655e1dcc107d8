"""Engines of target ort-cuda, run on the device "cpu": the same graphs and buffers as on a GPU."""

from pathlib import Path

import onnx_ir as ir

from edgekiln.engine.manifest import read_manifest
from edgekiln.pipeline.assemble import canonical_graph, write_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.progress import StepTimer
from edgekiln.runtimes.ort.cuda import OrtCudaRuntime
from edgekiln.sources.base import ModelSource


def write_cuda_engine(source: ModelSource, directory: Path, quant: str, max_length: int | None = None) -> ir.Model:
    """Build `source` without calibration at `directory`, and return its canonical graph."""
    directory.mkdir(parents=True)
    options = BuildOptions(target="ort-cuda", quant=quant, max_length=max_length)
    canonical = canonical_graph(source, options)
    traced = canonical.graph.clone()
    write_engine(canonical, source, directory, options, StepTimer())
    return traced


def open_on_cpu(engine: Path, chunk: int | None = None, cuda_graph: bool = False) -> OrtCudaRuntime:
    """Open an ort-cuda engine on the CPU."""
    return OrtCudaRuntime(engine, read_manifest(engine), chunk=chunk, device="cpu", cuda_graph=cuda_graph)
