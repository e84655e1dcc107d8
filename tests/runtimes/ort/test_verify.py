"""Verified tokens get logits with the bits of single decode steps, so speculation does not change an answer."""

from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import RequestError
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
from edgekiln.runtimes.ort.kernels import kernel_library
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.engines import build

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="edgekiln's kernels are not built: make kernels")

MAX_VERIFY_TOKENS = 8
# A penalty below 1 favors repetition, which prompt lookup needs.
SAMPLINGS = [
    SamplingOptions(),
    SamplingOptions(repetition_penalty=0.05),
    SamplingOptions(temperature=0.3, top_p=0.9, repetition_penalty=0.2, seed=5),
    SamplingOptions(temperature=0.8, top_p=0.95, repetition_penalty=1.1, seed=6),
]


@pytest.fixture(
    scope="module", params=[("int8", "float32"), ("int4", "float32"), ("int8", "int8"), ("int4", "int8")], ids="-".join
)
def engine(request, tmp_path_factory) -> Path:
    quant, kv = request.param
    return build(tmp_path_factory.mktemp("verify"), "llama", quant, kv, max_position_embeddings=600)


def same_answers(engine: Path, prompt: np.ndarray, count: int, threads: int = 1) -> SpeculationStats:
    runtime = runtimes.open(engine, threads=threads)
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
    stats = SpeculationStats()
    for sampling in SAMPLINGS:
        plain, speculated = (
            GenerateOptions(count, sampling, ignore_eos=True, logprobs=True, speculate=speculate)
            for speculate in (False, True)
        )
        expected = list(generate(runtime, tokenizer, [prompt], plain))
        assert list(generate(runtime, tokenizer, [prompt], speculated, stats=stats)) == expected
    return stats


def test_speculation_does_not_change_answers(engine):
    stats = same_answers(engine, np.tile([5, 71, 5, 130], 8), 120)
    assert stats.drafted >= stats.accepted > 0


@pytest.mark.usefixtures("all_cores")
@pytest.mark.parametrize("length", [1, 30, 254, 300])
def test_verified_logits_have_the_bits_of_decode_steps(engine, length):
    runtime = runtimes.open(engine, threads=2)
    assert runtime.max_verify_tokens == MAX_VERIFY_TOKENS
    ids = np.random.default_rng(length).integers(0, runtime.properties.vocab_size, length + MAX_VERIFY_TOKENS)
    cache = runtime.new_cache(2)
    runtime.prefill(cache, 0, ids[:5])
    runtime.prefill(cache, 1, ids[:length])
    for count in range(1, MAX_VERIFY_TOKENS + 1):
        tokens = ids[length : length + count]
        together = runtime.verify(cache, 1, tokens).copy()
        np.testing.assert_array_equal(cache.tokens(1), ids[: length + count])
        cache.rewind(1, length)
        alone = [runtime.step(cache, np.array([0, token]))[1].copy() for token in tokens]
        np.testing.assert_array_equal(together, alone)
        cache.rewind(0, 5)
        cache.rewind(1, length)
    # A decode step after all this still gives the same bits.
    following = runtime.step(cache, ids[[0, length]])[1]
    np.testing.assert_array_equal(following, together[0])


def test_too_many_tokens_to_verify(engine):
    runtime = runtimes.open(engine, threads=1)
    cache = runtime.new_cache()
    with pytest.raises(RequestError, match="cannot verify 9 tokens together: this engine and its kernels verify 8"):
        runtime.verify(cache, 0, np.arange(9))
    with pytest.raises(RequestError, match="batch index 1 is outside the cache of batch size 1"):
        runtime.verify(cache, 1, np.arange(2))
    assert cache.lengths.tolist() == [0]


def test_onnxruntimes_kernels_do_not_verify(engine):
    runtime = runtimes.open(engine, threads=1, kernels="onnxruntime")
    assert runtime.max_verify_tokens == 1
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
    stats = SpeculationStats()
    options = GenerateOptions(40, SAMPLINGS[1], ignore_eos=True)
    assert len(list(generate(runtime, tokenizer, [np.tile([5, 71], 8)], options, stats=stats))) == 40
    assert stats == SpeculationStats(0, 0)


@pytest.mark.slow
@pytest.mark.usefixtures("all_cores")
@pytest.mark.parametrize("quant", ["int4", "int8"])
def test_speculation_does_not_change_answers_of_a_real_model(real_engine, quant):
    engine = real_engine(quant)
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
    code = "def area(width, height):\n    return width * height\n\n\n" * 3
    assert same_answers(engine, tokenizer.encode(code), 96, threads=2).accepted > 0
