"""The ort-cuda adapter with its device set to the CPU, compared with the ort-cpu engine of the same model."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import EdgekilnError, EngineError, RequestError
from edgekiln.runtimes.kv_cache import batch_slice
from edgekiln.runtimes.ort.cuda import OrtCudaRuntime
from support.adapters import check_moved_sequences, check_ragged_batch, ids
from support.cuda_engines import open_on_cpu, write_cuda_engine
from support.hybrid_engine import HybridDecoder, write_engine
from support.models import save_checkpoint

TOLERANCE = 0.02
MAX_LENGTH = 600


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Engines of one float model for ort-cpu and ort-cuda."""
    from edgekiln.pipeline.build import build_engine
    from edgekiln.pipeline.options import BuildOptions
    from edgekiln.sources.resolve import resolve

    directory = tmp_path_factory.mktemp("cuda")
    save_checkpoint(directory / "model", "llama", max_position_embeddings=MAX_LENGTH)
    source = resolve(str(directory / "model"))
    build_engine(source, directory / "cpu", BuildOptions(quant="none"))
    write_cuda_engine(source, directory / "cuda", "none")
    return directory / "cpu", directory / "cuda"


@pytest.fixture(params=[False, True], ids=["no CUDA graph", "CUDA graph"])
def pair(engines: tuple[Path, Path], request: pytest.FixtureRequest):
    """The ort-cpu runtime and the adapter. With a CUDA graph, `total_length` is the capacity."""
    cpu, cuda = engines
    return runtimes.open(cpu, kernels="onnxruntime"), open_on_cpu(cuda, chunk=7, cuda_graph=request.param)


def close(logits: np.ndarray, expected: np.ndarray) -> None:
    assert logits.dtype == np.float32
    assert np.linalg.norm(logits - expected) < TOLERANCE * np.linalg.norm(expected)


def test_sequences_of_different_lengths_decode_together(pair) -> None:
    check_ragged_batch(*pair, close)


def test_moved_sequences(pair) -> None:
    check_moved_sequences(*pair, close, ids(90))


def test_growing_keeps_the_tokens_of_every_sequence(pair) -> None:
    ort_cpu, runtime = pair
    caches = ort_cpu.new_cache(2), runtime.new_cache(2)
    for index, length in ((1, 30), (0, 254)):
        for engine, cache in zip(pair, caches, strict=True):
            engine.prefill(cache, index, ids(length))
    capacities = []
    for tokens in ids(8, 1).reshape(4, 2):
        close(runtime.step(caches[1], tokens), ort_cpu.step(caches[0], tokens))
        capacities.append(caches[1].capacity)
    assert capacities == [256, 256, 448, 448]
    runtime.prefill(caches[1], 0, ids(300))
    assert caches[1].capacity == MAX_LENGTH
    with pytest.raises(RequestError, match=f"601 tokens, the engine holds {MAX_LENGTH}"):
        runtime.prefill(caches[1], 0, ids(43))


def test_a_rewound_sequence_drops_its_tokens(pair) -> None:
    ort_cpu, runtime = pair
    caches = ort_cpu.new_cache(1), runtime.new_cache(1)
    for engine, cache in zip(pair, caches, strict=True):
        engine.prefill(cache, 0, ids(10))
        cache.rewind(0, 4)
    close(runtime.prefill(caches[1], 0, ids(6, 2)), ort_cpu.prefill(caches[0], 0, ids(6, 2)))


def test_score_returns_logits_of_every_position(pair) -> None:
    ort_cpu, runtime = pair
    close(runtime.score(ids(40)), ort_cpu.score(ids(40)))


def test_new_buffers_are_zero_and_grown_ones_keep_their_values(engines: tuple[Path, Path]) -> None:
    runtime = open_on_cpu(engines[1])
    cache = runtime.new_cache(2)
    cache.reserve(10)
    key = cache.layers[0][0]
    assert key.data_type() == "tensor(float16)"
    assert not key.numpy().any()
    values = np.random.default_rng(0).standard_normal(key.shape()).astype(np.float16)
    key.update_inplace(values)
    cache.reserve(300)
    grown = cache.layers[0][0].numpy()
    assert grown.shape[2] == 448
    np.testing.assert_array_equal(grown[:, :, :256], values)
    assert not grown[:, :, 256:].any()


def test_a_sequence_is_a_slice_of_the_buffer() -> None:
    assert batch_slice(1000, (4, 2, 8, 16), slice(3, 4), 2) == (1000 + 3 * 2 * 8 * 16 * 2, [1, 2, 8, 16])
    assert batch_slice(1000, (4, 2, 8, 16), slice(None), 2) == (1000, [4, 2, 8, 16])


def test_a_failed_run_is_a_one_line_error(engines: tuple[Path, Path]) -> None:
    runtime = open_on_cpu(engines[1])
    cache = runtime.new_cache()
    runtime.prefill(cache, 0, ids(4))
    with pytest.raises(EdgekilnError, match="ONNX Runtime failed while running the engine") as caught:
        runtime.step(cache, np.array([5000]))
    assert "\n" not in str(caught.value)
    assert cache.lengths.tolist() == [4]


def test_invalid_batch_sizes_caches_and_devices(engines: tuple[Path, Path]) -> None:
    runtime = open_on_cpu(engines[1])
    with pytest.raises(RequestError, match="batch size must be at least 1, got 0"):
        runtime.new_cache(0)
    with pytest.raises(RequestError, match=r"the cache is a OrtKVCache, take one from this runtime's new_cache\(\)"):
        runtime.step(runtimes.open(engines[0]).new_cache(), ids(1))
    with pytest.raises(EdgekilnError, match="device must be one of cuda, cpu, got tpu"):
        OrtCudaRuntime(engines[1], read_manifest(engines[1]), device="tpu")


def test_an_unsupported_kv_cache_layout(engines: tuple[Path, Path]) -> None:
    with pytest.raises(EngineError, match="layout is shared-buffer float32, ort-cuda runs shared-buffer float16"):
        OrtCudaRuntime(engines[0], read_manifest(engines[0]), device="cpu")


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this machine has CUDA")
def test_without_cuda_it_says_what_to_install(engines: tuple[Path, Path]) -> None:
    with pytest.raises(EdgekilnError, match=r"has no CUDA: pip uninstall onnxruntime; pip install 'edgekiln\[gpu\]'$"):
        runtimes.open(engines[1])


def test_without_onnxruntime_it_says_what_to_install(
    engines: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in [name for name in sys.modules if name.startswith("edgekiln.runtimes.ort.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(EdgekilnError, match=r"needs the module onnxruntime: pip install 'edgekiln\[gpu\]'$"):
        runtimes.open(engines[1])


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_an_engine_with_states(tmp_path: Path, cuda_graph: bool) -> None:
    decoder = HybridDecoder.random()
    runtime = open_on_cpu(write_engine(tmp_path / "engine", decoder, "ort-cuda"), chunk=50, cuda_graph=cuda_graph)
    tokens = np.random.default_rng(0).integers(0, 250, 400)
    expected = decoder.forward(tokens)
    for row, wanted in zip(runtime.score(tokens), expected, strict=True):
        close(row, wanted)
    cache = runtime.new_cache(3)
    for sequence, length in enumerate((5, 210, 60)):
        close(runtime.prefill(cache, sequence, tokens[:length]), expected[length - 1])
    cache.pause(2)
    for step in range(300 - 210):
        logits = runtime.step(cache, tokens[[5 + step, 210 + step, 0]])
        close(logits[0], expected[5 + step])
        close(logits[1], expected[210 + step])
    assert cache.lengths.tolist() == [95, 300, 60]
    assert [cache.rewind(sequence, length) for sequence, length in enumerate((94, 299, 60))] == [5, 210, 60]
    close(runtime.prefill(cache, 1, tokens[210:300]), expected[299])
    lengths = np.array([5, 300, 60])
    for _ in range(3):
        close(runtime.step(cache, tokens[lengths]), expected[lengths])
        lengths += 1
    assert cache.rewind(0, 1) == 0
    close(runtime.prefill(cache, 0, tokens[:2]), expected[1])
