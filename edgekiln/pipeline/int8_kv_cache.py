"""The step after a build: an engine with a float cache becomes one with an int8 cache."""

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from edgekiln.calib.data.loader import Windows
from edgekiln.calib.quantizers.kv_cache import cache_scales
from edgekiln.engine.manifest import EngineManifest, write_manifest
from edgekiln.export.passes.ort.decoder import fuse_decoder_layers, inline_decoder_layers
from edgekiln.export.passes.ort.int8_kv_cache import quantize_cache
from edgekiln.export.weights_file import save_graph
from edgekiln.runtimes.ort.cpu import OrtCpuRuntime


def with_int8_cache(
    directory: Path, manifest: EngineManifest, windows: Windows, progress: Callable[[float], None]
) -> EngineManifest:
    """Rewrite an ort-cpu engine that nobody else reads yet, in place; returns its new manifest.

    Raises:
        EdgekilnError: the engine cannot be run here.
    """
    length = manifest.architecture.max_length
    scales = cache_scales(OrtCpuRuntime(directory, manifest), windows[:, :length], progress)
    for name in manifest.graphs.values():
        graph = ir.load(directory / name)
        inline_decoder_layers(graph)
        quantize_cache(graph, scales)
        fuse_decoder_layers(graph)
        save_graph(graph, directory / name)
    layout = manifest.kv_cache.model_copy(update={"dtype": "int8"})
    return write_manifest(directory, **{**manifest.model_dump(exclude={"files"}), "kv_cache": layout})
