"""Quantize the KV cache of a finished engine to int8, with scales measured on calibration data."""

from pathlib import Path

import onnx_ir as ir

from edgekiln.calib.data.loader import Windows
from edgekiln.calib.quantizers.kv_cache import cache_scales
from edgekiln.engine.manifest import EngineManifest, write_manifest
from edgekiln.export.passes.ort.decoder_layers import FuseDecoderLayers, InlineDecoderLayers
from edgekiln.export.passes.ort.int8_kv_cache import QuantizeKVCache
from edgekiln.export.weights_file import save_graph
from edgekiln.progress import StepProgress
from edgekiln.runtimes.ort.cpu import OrtCpuRuntime


def quantize_kv_cache(
    directory: Path, manifest: EngineManifest, windows: Windows, progress: StepProgress
) -> EngineManifest:
    """Rewrite the graphs and the manifest of an ort-cpu engine in place.

    The engine runs the windows with its float32 cache; the largest |key| and |value| of each channel give the scales.

    Args:
        directory: an engine that is not published yet.
        manifest: its manifest.
        windows: int64 [windows, length] token ids; longer windows are cut to the engine's max_length.
        progress: called with the share of the windows that is done.

    Returns:
        The new manifest.

    Raises:
        EdgekilnError: ONNX Runtime is not installed, or cannot run the engine.
    """
    length = manifest.architecture.max_length
    scales = cache_scales(OrtCpuRuntime(directory, manifest), windows[:, :length], progress)
    for name in manifest.graphs.values():
        graph = ir.load(directory / name)
        InlineDecoderLayers()(graph)
        QuantizeKVCache(scales)(graph)
        FuseDecoderLayers()(graph)
        save_graph(graph, directory / name)
    spec = manifest.kv_cache.model_copy(update={"dtype": "int8"})
    return write_manifest(directory, **{**manifest.model_dump(exclude={"files"}), "kv_cache": spec})
