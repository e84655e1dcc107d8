"""The TensorRT adapter on a fake device and a fake library, compared with the ort-cpu engine of the same model."""

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx")
pytest.importorskip("cuda.bindings.runtime")

import tensorrt_rtx as trt

from edgekiln import runtimes
from edgekiln.engine.graph_io import GraphIO
from edgekiln.engine.manifest import KVCacheSpec, read_manifest
from edgekiln.errors import EdgekilnError, EngineError, RequestError
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.tensorrt.runtime import TensorRTRuntime
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.adapters import check_moved_sequences, check_ragged_batch, ids
from support.fake_cuda import FakeCuda
from support.fake_tensorrt import open_on_host, write_tensorrt_engine
from support.models import save_checkpoint

TOLERANCE = 1e-3
MAX_LENGTH, MAX_BATCH, CHUNK = 600, 3, 16
FORMS = [(layout, target) for layout in ("in-place", "growing") for target in ("trt", "trt-rtx")]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Engines of one float model: for ort-cpu, and for each TensorRT target with each KV cache layout."""
    from edgekiln.pipeline.build import build_engine
    from edgekiln.pipeline.options import BuildOptions
    from edgekiln.sources.resolve import resolve

    directory = tmp_path_factory.mktemp("tensorrt")
    save_checkpoint(directory / "model", "llama", max_position_embeddings=MAX_LENGTH)
    source = resolve(str(directory / "model"))
    build_engine(source, directory / "cpu", BuildOptions(quant="none"))
    for layout, target in FORMS:
        write_tensorrt_engine(source, directory / f"{layout}-{target}", target, layout, MAX_BATCH, CHUNK)
    return {"cpu": directory / "cpu", **{form: directory / "-".join(form) for form in FORMS}}


@pytest.fixture(params=FORMS, ids="-".join)
def form(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def pair(engines: dict, form: tuple[str, str]):
    """The ort-cpu runtime and the adapter."""
    return runtimes.open(engines["cpu"], kernels="onnxruntime"), open_on_host(engines[form], chunk=7)[0]


def close(logits: np.ndarray, expected: np.ndarray) -> None:
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("graph", [True, False], ids=["CUDA graph", "no CUDA graph"])
def test_greedy_answers_equal_those_of_ort_cpu(engines: dict, form: tuple[str, str], graph: bool) -> None:
    ort_cpu = runtimes.open(engines["cpu"], kernels="onnxruntime")
    runtime, cuda, library = open_on_host(engines[form], cuda_graph=graph)
    tokenizer = Tokenizer.from_engine(engines["cpu"], read_manifest(engines["cpu"]))
    prompts = [ids(40), ids(3, 1), ids(17, 2)]
    options = GenerateOptions(max_tokens=24, sampling=SamplingOptions(temperature=0), ignore_eos=True)
    expected = [(token.index, token.id) for token in generate(ort_cpu, tokenizer, prompts, options)]
    assert [(token.index, token.id) for token in generate(runtime, tokenizer, prompts, options)] == expected
    assert len(expected) == 3 * 24
    replay = graph and form == ("in-place", "trt")
    assert cuda.launches == (23 - 1 if replay else 0)
    configs = [c for c in library.engine._configs if not isinstance(c, trt.ExecutionContextAllocationStrategy)]
    assert len(configs) == (graph and form == ("in-place", "trt-rtx"))
    for config in configs:
        assert config.cuda_graph_strategy == trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        assert config._strategy == trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE


def test_sequences_of_different_lengths_decode_together(pair) -> None:
    check_ragged_batch(*pair, close)


def test_moved_sequences(pair) -> None:
    check_moved_sequences(*pair, close, ids(90))


def test_prefill_between_decode_steps(pair) -> None:
    ort_cpu, runtime = pair
    caches = ort_cpu.new_cache(2), runtime.new_cache(2)
    for index, length in ((0, 9), (1, 4)):
        for engine, cache in zip(pair, caches, strict=True):
            engine.prefill(cache, index, ids(length))
    for seed in range(3):
        for tokens in ids(6, seed).reshape(3, 2):
            close(runtime.step(caches[1], tokens), ort_cpu.step(caches[0], tokens))
        close(runtime.prefill(caches[1], 1, ids(10, seed)), ort_cpu.prefill(caches[0], 1, ids(10, seed)))


def test_two_caches_are_independent(pair) -> None:
    ort_cpu, runtime = pair
    both = [(ort_cpu.new_cache(1), runtime.new_cache(1)), (ort_cpu.new_cache(2), runtime.new_cache(2))]
    for number, caches in enumerate(both):
        for index in range(caches[0].batch_size):
            tokens = ids(10 + 3 * index, number)
            close(runtime.prefill(caches[1], index, tokens), ort_cpu.prefill(caches[0], index, tokens))
    for seed in range(5):
        for caches in both:
            tokens = ids(caches[0].batch_size, seed)
            close(runtime.step(caches[1], tokens), ort_cpu.step(caches[0], tokens))


def test_growing_keeps_the_tokens_of_every_sequence(pair, form: tuple[str, str]) -> None:
    ort_cpu, runtime = pair
    caches = ort_cpu.new_cache(2), runtime.new_cache(2)
    for index, length in ((1, 30), (0, 254)):
        for engine, cache in zip(pair, caches, strict=True):
            engine.prefill(cache, index, ids(length))
    capacities = []
    for tokens in ids(8, 1).reshape(4, 2):
        close(runtime.step(caches[1], tokens), ort_cpu.step(caches[0], tokens))
        capacities.append(caches[1].capacity)
    assert capacities == ([256, 256, 448, 448] if form[0] == "growing" else [MAX_LENGTH] * 4)
    caches[1].rewind(1, 12)
    caches[0].rewind(1, 12)
    close(runtime.prefill(caches[1], 0, ids(300)), ort_cpu.prefill(caches[0], 0, ids(300)))
    close(runtime.step(caches[1], ids(2)), ort_cpu.step(caches[0], ids(2)))
    assert caches[1].capacity == MAX_LENGTH


def test_more_tokens_than_the_max_length(pair) -> None:
    runtime = pair[1]
    cache = runtime.new_cache(1)
    runtime.prefill(cache, 0, ids(MAX_LENGTH))
    with pytest.raises(
        RequestError,
        match=f"601 tokens, the engine holds {MAX_LENGTH}: shorten it, as the model holds no more",
    ):
        runtime.step(cache, ids(1))
    with pytest.raises(RequestError, match=f"607 tokens, the engine holds {MAX_LENGTH}"):
        runtime.prefill(cache, 0, ids(7))
    assert cache.lengths.tolist() == [MAX_LENGTH]


@pytest.mark.parametrize("length", [0, 1, 6])
def test_a_rewound_sequence_drops_its_tokens(pair, length: int) -> None:
    ort_cpu, runtime = pair
    caches = ort_cpu.new_cache(2), runtime.new_cache(2)
    for engine, cache in zip(pair, caches, strict=True):
        for index in range(2):
            engine.prefill(cache, index, ids(10, index))
        cache.rewind(1, length)
    close(runtime.prefill(caches[1], 1, ids(6, 2)), ort_cpu.prefill(caches[0], 1, ids(6, 2)))
    close(runtime.step(caches[1], ids(2)), ort_cpu.step(caches[0], ids(2)))


def test_score_returns_logits_of_every_position(pair) -> None:
    ort_cpu, runtime = pair
    close(runtime.score(ids(20)), ort_cpu.score(ids(20)))


def test_chunks_are_limited_by_the_plan(engines: dict) -> None:
    for chunk, longest in ((None, CHUNK), (5, 5), (100, CHUNK)):
        runtime, _, library = open_on_host(engines["in-place", "trt"], chunk=chunk)
        runtime.prefill(runtime.new_cache(), 0, ids(40))
        assert max(run["input_ids"][1] for run in library.engine._runs) == longest


def test_a_batch_size_above_the_plans(engines: dict, form: tuple[str, str]) -> None:
    runtime = open_on_host(engines[form])[0]
    if form[0] == "growing":
        assert runtime.new_cache(4).batch_size == 4
        return
    with pytest.raises(RequestError, match=r"^batch size 4 is above the 3 .* was built for: .* --max-batch 4$"):
        runtime.new_cache(4)


def test_allocation_can_be_retried_after_out_of_memory(engines: dict, form: tuple[str, str]) -> None:
    ort_cpu = runtimes.open(engines["cpu"], kernels="onnxruntime")
    runtime, cuda, _ = open_on_host(engines[form], FakeCuda(memory=60_000))
    cache = runtime.new_cache()
    with pytest.raises(EdgekilnError, match=r"free, the cache of keys and values needs 1 MB more: use a smaller batch"):
        runtime.prefill(cache, 0, ids(4))
    cuda.memory *= 100
    close(runtime.prefill(cache, 0, ids(4)), ort_cpu.prefill(ort_cpu.new_cache(), 0, ids(4)))


def test_the_memory_of_a_dropped_cache_is_freed(engines: dict, form: tuple[str, str]) -> None:
    runtime, cuda, _ = open_on_host(engines[form])
    before = len(cuda.live)
    cache = runtime.new_cache(2)
    for index in range(2):
        runtime.prefill(cache, index, ids(10))
    for _ in range(3):
        runtime.step(cache, ids(2))
    assert len(cuda.live) > before
    del cache
    assert len(cuda.live) == before


def test_a_failed_run_is_a_one_line_error_and_appends_no_token(engines: dict, form: tuple[str, str]) -> None:
    runtime, _, library = open_on_host(engines[form])
    cache = runtime.new_cache()
    runtime.prefill(cache, 0, ids(4))

    def fail(shapes: dict, addresses: dict) -> None:
        raise ValueError("an illegal\nthing")

    library.engine._compute = fail
    with pytest.raises(EdgekilnError, match=r"^TensorRT failed while running the engine: an illegal$"):
        runtime.step(cache, ids(1))
    assert cache.lengths.tolist() == [4]


def test_a_refused_run_is_a_one_line_error(
    engines: dict, form: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = open_on_host(engines[form])[0]
    monkeypatch.setattr(
        "support.fake_tensorrt.FakeExecutionContext.execute_async_v3", lambda self, stream_handle: False
    )
    with pytest.raises(EdgekilnError, match=r"^tensorrt(_rtx)? failed while running the engine: it does not say why$"):
        runtime.prefill(runtime.new_cache(), 0, ids(4))


def test_invalid_batch_indices_sizes_and_caches(engines: dict, form: tuple[str, str]) -> None:
    runtime = open_on_host(engines[form])[0]
    with pytest.raises(RequestError, match=r"batch size must be at least 1, got 0"):
        runtime.new_cache(0)
    with pytest.raises(RequestError, match=r"batch index 2 is outside the cache of batch size 2"):
        runtime.prefill(runtime.new_cache(2), 2, ids(1))
    with pytest.raises(RequestError, match=r"the cache is a OrtKVCache, take one from this runtime's new_cache\(\)"):
        runtime.step(runtimes.open(engines["cpu"]).new_cache(), ids(1))


def test_plans_that_do_not_match_engine_json(engines: dict) -> None:
    directory = engines["in-place", "trt"]
    manifest = read_manifest(directory)
    runtime, _, library = open_on_host(directory)
    device = runtime._generate.device

    def open_as(**changes: object) -> None:
        TensorRTRuntime(directory, manifest.model_copy(update=changes), library=library, device=device)

    kv = KVCacheSpec
    shorter = manifest.architecture.model_copy(update={"max_length": 512})
    with pytest.raises(EngineError, match=r"past.0.key is \[-1, 2, 600, 16\], .* says \[-1, 2, 512, 16\]: build"):
        open_as(architecture=shorter)
    with pytest.raises(EngineError, match=r"past.0.key is FLOAT, engine.json says float16: build it again"):
        open_as(kv_cache=kv(layout="in-place", dtype="float16"))
    with pytest.raises(EngineError, match=r"layout is shared-buffer float32, trt runs in-place or growing, float32 or"):
        open_as(kv_cache=kv(layout="shared-buffer", dtype="float32"))
    with pytest.raises(EngineError, match=r"^the plan has no input or output past\.0\.keys: build the engine again"):
        open_as(io=GraphIO(past_key="past.{layer}.keys"))
    with pytest.raises(EngineError, match=r"engine.json names no plan for target trt: build the engine again"):
        open_as(tensorrt=None)
    assert manifest.tensorrt is not None
    with pytest.raises(EngineError, match=r"the plan was built with tensorrt_rtx, target trt runs tensorrt$"):
        open_as(tensorrt=manifest.tensorrt.model_copy(update={"library": "tensorrt_rtx"}))
    library._engine_arguments = (*library._engine_arguments[:3], False)
    with pytest.raises(EngineError, match=r"does not update past.0.key in place: build .* with --cache growing"):
        open_as()


def test_the_registry_opens_both_targets(engines: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(
        "edgekiln.runtimes.tensorrt.runtime.load_library", lambda target: opened.append(target) or _stop()
    )
    for target in ("trt", "trt-rtx"):
        with pytest.raises(EdgekilnError, match=r"^stop$"):
            runtimes.open(engines["in-place", target])
    assert opened == ["trt", "trt-rtx"]


def _stop() -> None:
    raise EdgekilnError("stop")
