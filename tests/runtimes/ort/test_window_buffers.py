"""Engines whose sliding-window layers hold the last tokens only, over contexts of many windows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgekiln import runtimes
from edgekiln.calib.evaluation.graph_scorer import graph_scorer
from edgekiln.calib.quantizers.kv_cache import cache_scales
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import RequestError
from edgekiln.runtimes.base import KernelsChoice, Runtime
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.ort.cpu import OrtCpuRuntime
from edgekiln.runtimes.ort.kernels import kernel_library
from edgekiln.runtimes.ort.kv_cache import OrtKVCache
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.runtimes.window_buffer import REWIND, WindowBuffer
from support.engines import build
from support.models import tiny_model

LENGTH = 2200
KINDS = ["full_attention", "sliding_attention"]
# Model, quantization, cache, and sliding window of each layer.
ENGINES: dict[str, tuple[str, str, str, dict[str, object], list[int]]] = {
    "gemma3_text": ("gemma3_text", "none", "float32", {"sliding_window": 16}, [16, 0, 16, 0]),
    # All layers in one DecoderLayers call, whose windows are equal, or differ.
    "mistral": ("mistral", "int8", "float32", {"sliding_window": 64}, [64] * 4),
    "qwen2": (
        "qwen2",
        "int4",
        "int8",
        {"use_sliding_window": True, "sliding_window": 24, "layer_types": [KINDS[0], *KINDS[1:] * 2, KINDS[0]]},
        [0, 24, 24, 0],
    ),
}
IDS = np.random.default_rng(0).integers(3, 250, LENGTH)
OPTIONS = GenerateOptions(40, SamplingOptions(temperature=0.8, seed=3), ignore_eos=True)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that builds an engine of `ENGINES` on first use."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        family, quant, kv, config, _ = ENGINES[name]
        if name not in made:
            made[name] = build(
                tmp_path_factory.mktemp(name), family, quant, kv, max_position_embeddings=LENGTH, **config
            )
        return made[name]

    return make


@pytest.fixture(params=ENGINES)
def runtime(request: pytest.FixtureRequest, engines: Callable[[str], Path], kernels: KernelsChoice) -> Runtime:
    return runtimes.open(engines(request.param), threads=1, kernels=kernels)


@pytest.fixture
def full_cache(monkeypatch: pytest.MonkeyPatch) -> Callable[[Runtime, int], OrtKVCache]:
    """A function that makes a cache whose window buffers hold all tokens."""

    def make(runtime: Runtime, batch_size: int) -> OrtKVCache:
        with monkeypatch.context() as patch:
            patch.setattr(WindowBuffer, "of", lambda window, _chunk: WindowBuffer(window, LENGTH))
            return runtime.new_cache(batch_size)  # type: ignore[return-value]

    return make


def close(actual: np.ndarray, expected: np.ndarray, runtime: Runtime) -> None:
    """Equal to the bit with edgekiln's kernels, and up to rounding with ONNX Runtime's, whose sums depend on slots."""
    if runtime.kernels == "onnxruntime":
        # Rounding of activations to int8 turns last bits into steps.
        np.testing.assert_allclose(actual, expected, atol=0.05 * np.abs(expected).max())
    else:
        np.testing.assert_array_equal(actual, expected)


def starts(cache: OrtKVCache) -> list[list[int]]:
    return [start.tolist() for start in cache.window_starts.values()]


@pytest.mark.parametrize("name", ENGINES)
def test_engine_json_names_the_windows(name: str, engines: Callable[[str], Path]) -> None:
    manifest = read_manifest(engines(name))
    assert manifest.kv_cache.windows == ENGINES[name][-1]
    assert manifest.io.window_start == "window_start.{window}"
    graph = onnx.load(engines(name) / "generate.onnx", load_external_data=False).graph
    fused = [node for node in graph.node if "DecoderLayers" in node.op_type]
    assert len(fused) == (ENGINES[name][1] != "none")
    for node in fused:
        values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert values["windows"] == ENGINES[name][-1]
        assert ("own_lengths" in values) == (len(set(values["windows"])) > 1)


def test_logits_are_those_of_transformers(engines: Callable[[str], Path], kernels: KernelsChoice) -> None:
    _, _, _, config, _ = ENGINES["gemma3_text"]
    model = tiny_model("gemma3_text", max_position_embeddings=LENGTH, **config)
    with torch.no_grad():
        expected = model(torch.tensor(IDS[None])).logits[0].numpy()
    runtime = runtimes.open(engines("gemma3_text"), threads=1, kernels=kernels)
    tolerance = 2e-6 * np.abs(expected).max()
    np.testing.assert_allclose(runtime.score(IDS), expected, atol=tolerance)
    # A batch whose sequences have different lengths, and move at different times.
    cache = runtime.new_cache(2)
    for sequence, length in enumerate((1000, 40)):
        logits = runtime.prefill(cache, sequence, IDS[:length])
        np.testing.assert_allclose(logits, expected[length - 1], atol=tolerance)
    for step in range(1100):
        logits = runtime.step(cache, IDS[[1000 + step, 40 + step]])
        np.testing.assert_allclose(logits, expected[[1000 + step, 40 + step]], atol=tolerance)
    assert isinstance(cache, OrtKVCache)
    assert starts(cache) == [[1024, 512]]


def test_logits_are_those_of_a_cache_of_all_tokens(
    runtime: Runtime, full_cache: Callable[[Runtime, int], OrtKVCache]
) -> None:
    cache, full = runtime.new_cache(2), full_cache(runtime, 2)
    assert isinstance(cache, OrtKVCache)
    for sequence, length in enumerate((1500, 1000)):
        close(runtime.prefill(cache, sequence, IDS[:length]), runtime.prefill(full, sequence, IDS[:length]), runtime)
    for step in range(200):
        tokens = IDS[[1500 + step, 1000 + step]]
        close(runtime.step(cache, tokens), runtime.step(full, tokens), runtime)
    assert all(start > 0 for both in starts(cache) for start in both)
    assert all(start == 0 for both in starts(full) for start in both)
    for window, (keys, values) in zip(runtime.properties.windows, cache.layers, strict=True):
        slots = WindowBuffer.of(window, 256).capacity if window else cache.capacity
        assert keys.shape[2] == values.shape[2] == slots


@pytest.mark.skipif(kernel_library() is None, reason="edgekiln's kernels are not built: make kernels")
@pytest.mark.parametrize("name", ["mistral", "qwen2"])
def test_verified_logits_have_the_bits_of_decode_steps_where_buffers_move(
    name: str, engines: Callable[[str], Path]
) -> None:
    runtime = runtimes.open(engines(name), threads=1)
    assert runtime.max_verify_tokens == 8
    capacity = WindowBuffer.of(max(ENGINES[name][-1]), 256).capacity
    for length in range(capacity - 9, capacity + 2):
        together, alone = runtime.new_cache(), runtime.new_cache()
        for cache in (together, alone):
            runtime.prefill(cache, 0, IDS[:length])
        logits = runtime.verify(together, 0, IDS[length : length + 8]).copy()
        for row, token in zip(logits, IDS[length : length + 8], strict=True):
            np.testing.assert_array_equal(runtime.step(alone, np.array([token]))[0], row)
        # Dropped again, as drafts are.
        assert together.rewind(0, length) == length
        np.testing.assert_array_equal(runtime.step(together, IDS[length : length + 1])[0], logits[0])


def test_a_rewind_keeps_the_prefix_or_nothing(runtime: Runtime) -> None:
    window = max(runtime.properties.windows)
    cache, fresh = runtime.new_cache(), runtime.new_cache()
    assert isinstance(cache, OrtKVCache)
    runtime.prefill(cache, 0, IDS[:2000])
    ((start,),) = starts(cache)
    assert start > 0
    first = start + window - 1  # length from which on all keys of the next query are there
    assert first <= 2000 - REWIND
    assert cache.rewind(0, first) == first
    np.testing.assert_array_equal(cache.tokens(0), IDS[:first])
    runtime.prefill(fresh, 0, IDS[: first + 1])
    one = IDS[first : first + 1]
    close(runtime.prefill(cache, 0, one), runtime.step(rewound(runtime, fresh, first), one)[0], runtime)
    assert cache.rewind(0, first - 1) == 0
    assert (cache.lengths.tolist(), starts(cache)) == ([0], [[0]])
    close(runtime.prefill(cache, 0, IDS[:300]), runtime.prefill(runtime.new_cache(), 0, IDS[:300]), runtime)
    with pytest.raises(RequestError, match="cannot rewind sequence 0 to 301 tokens: it holds 300"):
        cache.rewind(0, 301)


def rewound(runtime: Runtime, cache: runtimes.KVCache, length: int) -> runtimes.KVCache:
    assert cache.rewind(0, length) == length
    return cache


def test_moved_sequences(runtime: Runtime) -> None:
    cache = runtime.new_cache(3)
    runtime.prefill(cache, 0, IDS[:1800])
    runtime.prefill(cache, 1, IDS[:90])
    assert cache.copy(0, 2, 1750) == 1750
    cache.swap(0, 1)
    expected = runtime.new_cache()
    runtime.prefill(expected, 0, IDS[:1800])
    assert expected.rewind(0, 1750) == 1750
    again = runtime.prefill(expected, 0, IDS[1750:1800]).copy()
    np.testing.assert_array_equal(runtime.prefill(cache, 2, IDS[1750:1800]), again)
    assert cache.rewind(1, 1750) == 1750
    np.testing.assert_array_equal(runtime.prefill(cache, 1, IDS[1750:1800]), again)


@pytest.mark.parametrize("name", ENGINES)
def test_a_conversation_goes_on(
    name: str, engines: Callable[[str], Path], full_cache: Callable[[Runtime, int], OrtKVCache]
) -> None:
    engine = engines(name)
    runtime = runtimes.open(engine, threads=1)
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
    cache, full = runtime.new_cache(), full_cache(runtime, 1)

    def answer(prompt: np.ndarray, held: runtimes.KVCache) -> list[int]:
        return [token.id for token in generate(runtime, tokenizer, [prompt], OPTIONS, held)]

    # The last answer is made again, and the next message follows.
    for prompt in (IDS[:1600], IDS[:1600], IDS[:1560], IDS[:1700]):
        assert answer(prompt, cache) == answer(prompt, full)
    # An early message is edited: all is computed again.
    edited = IDS[:1700].copy()
    edited[100] += 1
    for prompt in (edited, IDS[:50]):
        assert answer(prompt, cache) == answer(prompt, runtime.new_cache())


def test_cache_scales_come_from_all_tokens(engines: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = runtimes.open(engines("mistral"), threads=1)
    assert isinstance(runtime, OrtCpuRuntime)
    scales = cache_scales(runtime, IDS[None])
    monkeypatch.setattr(WindowBuffer, "of", lambda window, _chunk: WindowBuffer(window, LENGTH))
    for layer, expected in zip(scales, cache_scales(runtime, IDS[None]), strict=True):
        np.testing.assert_array_equal(layer.key, expected.key)
        np.testing.assert_array_equal(layer.value, expected.value)


def test_graphs_run_without_an_adapter(engines: Callable[[str], Path]) -> None:
    directory = engines("gemma3_text")
    logits = graph_scorer(directory, read_manifest(directory), threads=1)(IDS[:300])
    expected = runtimes.open(directory, threads=1, kernels="onnxruntime").score(IDS[:300])
    np.testing.assert_allclose(logits, expected, atol=2e-6 * np.abs(expected).max())


def test_an_interrupt_while_buffers_move_empties_the_sequence(
    engines: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = runtimes.open(engines("qwen2"), threads=1)
    cache = runtime.new_cache(2)
    assert isinstance(cache, OrtKVCache)
    for sequence in range(2):
        runtime.prefill(cache, sequence, IDS[:1080])
    move = cache._move

    def interrupted(*arguments: Any) -> None:
        move(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_move", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runtime.prefill(cache, 1, IDS[1080:1100])
    assert (cache.lengths.tolist(), starts(cache)) == ([1080, 0], [[0, 0]])
    logits = runtime.prefill(cache, 1, IDS[:1100])
    close(logits, runtime.prefill(runtime.new_cache(), 0, IDS[:1100]), runtime)


def test_short_contexts_have_no_window_buffers(tmp_path: Path) -> None:
    engine = build(tmp_path, "mistral", "int8", sliding_window=64, max_position_embeddings=64 + 1024)
    manifest = read_manifest(engine)
    assert (manifest.kv_cache.windows, manifest.io.window_start) == ([], None)
    graph = onnx.load(engine / "generate.onnx", load_external_data=False)
    assert {value.name for value in graph.graph.input} == {
        "input_ids",
        "position_ids",
        "logits_to_keep",
        *(f"past.{layer}.{part}" for layer in range(4) for part in ("key", "value")),
    }
