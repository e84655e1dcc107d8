"""The ort-cpu adapter, compared with the same decoder in numpy, which has no KV cache."""

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import KVCacheSpec
from edgekiln.errors import EdgekilnError, EngineError, RequestError

TOLERANCE = 1e-3
MAX_LENGTH = 600
SCALES = np.full(259, 1 / 127, dtype=np.float32)


@pytest.fixture
def runtime(engine, kernels):
    return runtimes.open(engine, threads=1, chunk=7, kernels=kernels)


def ids(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 259, length)


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("length", [1, 6, 7, 8, 30])
def test_chunked_prefill_equals_a_single_pass(runtime, decoder, length):
    prompt = ids(length)
    cache = runtime.new_cache()
    assert_close(runtime.prefill(cache, 0, prompt), decoder.forward(prompt)[-1])
    assert cache.lengths.tolist() == [length]


def test_sequences_of_different_lengths_decode_together(runtime, decoder):
    sequences = [ids(3, 1), ids(20, 2), ids(11, 3)]
    cache = runtime.new_cache(3)
    for index in (2, 0, 1):
        runtime.prefill(cache, index, sequences[index])
    for tokens in ids(5 * 3, 4).reshape(5, 3):
        sequences = [np.append(sequence, token) for sequence, token in zip(sequences, tokens, strict=True)]
        expected = np.stack([decoder.forward(sequence)[-1] for sequence in sequences])
        assert_close(runtime.step(cache, tokens), expected)
    assert cache.lengths.tolist() == [8, 25, 16]
    for index, sequence in enumerate(sequences):
        np.testing.assert_array_equal(cache.tokens(index), sequence)


def test_the_cache_grows_ahead_and_keeps_its_tokens(runtime, decoder):
    sequence = ids(255)
    cache = runtime.new_cache()
    assert cache.capacity == 0
    runtime.prefill(cache, 0, sequence[:1])
    runtime.prefill(cache, 0, sequence[1:])
    capacities = []
    for token in ids(3, 1):
        sequence = np.append(sequence, token)
        logits = runtime.step(cache, sequence[-1:])
        capacities.append(cache.capacity)
    assert capacities == [256, 448, 448]
    assert_close(logits[0], decoder.forward(sequence)[-1])
    np.testing.assert_array_equal(cache.tokens(0), sequence)


def test_the_cache_grows_to_the_longest_sequence_and_no_further(runtime, decoder):
    sequence = ids(MAX_LENGTH)
    cache = runtime.new_cache()
    runtime.prefill(cache, 0, sequence[:-1])
    assert_close(runtime.step(cache, sequence[-1:])[0], decoder.forward(sequence)[-1])
    assert cache.capacity == MAX_LENGTH
    with pytest.raises(RequestError, match="601 tokens, the engine holds 600"):
        runtime.step(cache, sequence[-1:])
    assert cache.lengths.tolist() == [MAX_LENGTH]


def test_a_rewound_sequence_drops_its_tokens(runtime, decoder):
    first, second = ids(10, 1), ids(6, 2)
    cache = runtime.new_cache(2)
    runtime.prefill(cache, 0, first)
    runtime.prefill(cache, 1, first)
    cache.rewind(0, 4)
    changed = np.append(first[:4], second)
    assert_close(runtime.prefill(cache, 0, second), decoder.forward(changed)[-1])
    np.testing.assert_array_equal(cache.tokens(0), changed)
    logits = runtime.step(cache, np.array([1, 2]))
    assert_close(logits[0], decoder.forward(np.append(changed, 1))[-1])
    assert_close(logits[1], decoder.forward(np.append(first, 2))[-1])
    with pytest.raises(RequestError, match="cannot rewind sequence 0 to 99 tokens: it holds 11"):
        cache.rewind(0, 99)


def test_score_returns_logits_of_every_position(runtime, decoder):
    prompt = ids(40)
    assert_close(runtime.score(prompt), decoder.forward(prompt))
    assert_close(runtime.score(prompt[:1]), decoder.forward(prompt[:1]))


def test_properties_are_those_of_the_manifest(runtime):
    assert runtime.properties == runtimes.Properties("ort-cpu", 259, 600, 2, (2, 2), (16, 16))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "prompt is empty"),
        ([[1, 2]], r"token ids must be one sequence, got an array of shape \[1, 2\]"),
        ([3, 259], "token id 259 is outside the vocabulary of 259"),
        ([3, -1], "token id -1 is outside"),
        (
            [0] * 601,
            "prompt has 601 tokens, the engine holds 600: shorten it or build the engine with a larger --max-length",
        ),
    ],
)
def test_invalid_tokens_are_refused(runtime, tokens, message):
    cache = runtime.new_cache()
    with pytest.raises(RequestError, match=message):
        runtime.prefill(cache, 0, np.array(tokens, dtype=np.int64))
    with pytest.raises(RequestError, match=message):
        runtime.score(np.array(tokens, dtype=np.int64))
    assert cache.lengths.tolist() == [0]


def test_batch_indices_and_sizes_out_of_range(runtime):
    with pytest.raises(RequestError, match="batch index 1 is outside the cache of batch size 1"):
        runtime.prefill(runtime.new_cache(), 1, ids(2))
    with pytest.raises(RequestError, match="batch size must be at least 1, got 0"):
        runtime.new_cache(0)


def test_a_failed_run_is_a_one_line_error_and_leaves_the_cache_unchanged(runtime):
    cache = runtime.new_cache()
    runtime.prefill(cache, 0, ids(4))
    with pytest.raises(EdgekilnError, match="ONNX Runtime failed while running the engine") as caught:
        runtime.step(cache, np.array([5000]))
    assert "\n" not in str(caught.value)
    assert cache.lengths.tolist() == [4]


def test_engines_of_an_unknown_target_or_path(make_engine, tmp_path):
    directory = make_engine(target="toaster")
    with pytest.raises(EngineError, match="is for target toaster, which this edgekiln does not run"):
        runtimes.open(directory)
    with pytest.raises(EngineError, match="no engine directory"):
        runtimes.open(tmp_path / "nowhere")


def test_an_unsupported_kv_cache_layout(make_engine):
    directory = make_engine(kv_cache=KVCacheSpec(layout="growing", dtype="float32"))
    with pytest.raises(EngineError, match="layout is growing float32, ort-cpu runs shared-buffer"):
        runtimes.open(directory)


def test_a_graph_onnxruntime_refuses(make_engine):
    directory = make_engine()
    (directory / "generate.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"generate\.onnx is damaged or was edited"):
        runtimes.open(directory)
    with pytest.raises(EngineError, match=r"ONNX Runtime \S+ cannot load .*generate\.onnx"):
        runtimes.open(directory, verify=False)


def test_an_engine_without_a_score_graph(make_engine):
    runtime = runtimes.open(make_engine(graphs={"generate": "generate.onnx"}), threads=1)
    with pytest.raises(EngineError, match="has no score graph"):
        runtime.score(ids(3))


@pytest.mark.parametrize("option", ["threads", "chunk"])
def test_options_out_of_range(engine, option):
    with pytest.raises(EdgekilnError, match=f"{option} must be at least 1, got 0"):
        runtimes.open(engine, **{option: 0})
