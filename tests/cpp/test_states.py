"""libedgekiln keeps states and snapshots as Python does: same tokens, and as many that are not computed again."""

from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.runtimes.base import Ids, KVCache, Logits, Runtime
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.cpp_host import CANCELLED, OK, Host
from support.cuda_engines import open_on_cpu
from support.hybrid_engine import HYBRID, RECURRENT, HybridDecoder, build_hybrid, write_engine

IDS = np.random.default_rng(0).integers(3, 250, 3000)
COUNT = 40
OPTIONS = GenerateOptions(COUNT, ignore_eos=True)


@pytest.fixture(scope="module", params=[HYBRID, RECURRENT, "lfm2"], ids=["hybrid", "without attention", "lfm2"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("engines")
    if isinstance(request.param, str):
        return build_hybrid(directory, request.param)[0]
    return write_engine(directory / "hybrid", HybridDecoder.random(request.param))


@pytest.fixture(scope="module")
def tokenizer(engine: Path) -> Tokenizer:
    return Tokenizer.from_engine(engine, read_manifest(engine))


class Counting:
    """Wraps a runtime and records the number of tokens of the last prefill."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.prefilled = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._runtime, name)

    def prefill(self, cache: KVCache, sequence: int, tokens: Ids) -> Logits:
        self.prefilled = tokens.size
        return self._runtime.prefill(cache, sequence, tokens)


def edited(prompt: np.ndarray, position: int) -> np.ndarray:
    result = prompt.copy()
    result[position] += 1
    return result


def test_tokens_are_those_of_python(engine: Path, tokenizer: Tokenizer) -> None:
    runtime = runtimes.open(engine, threads=1)
    counting = Counting(runtime)
    cache = runtime.new_cache()
    cached = []
    with Host(engine, threads=1) as host:
        assert host.hello["max_verify_tokens"] == 1
        # A prompt with an edit, a short one, and turns that go on after the answer.
        for change in (0, 0, 1099, 1050, 700, 300, "short", "turn", "turn", 900, "turn", "turn", "turn", 100, "turn"):
            prompt = IDS[:20]
            if isinstance(change, int):
                prompt = edited(IDS[:1100], change)
            elif change == "turn":
                prompt = np.array([*cache.tokens(0), *IDS[1200:1217]])
            expected = [token.id for token in generate(runtime, tokenizer, [prompt], OPTIONS)]
            found = generate(counting, tokenizer, [prompt], OPTIONS, cache)  # type: ignore[arg-type]
            assert [token.id for token in found] == expected
            reply = host.ask(prompt, max_tokens=COUNT, ignore_eos=True)
            assert reply["status"] == OK
            assert reply["ids"] == expected
            assert reply["cached_tokens"] == prompt.size - counting.prefilled
            cached.append(reply["cached_tokens"])
    assert len(set(cached)) > 6


def test_a_long_answer(engine: Path, tokenizer: Tokenizer) -> None:
    runtime = runtimes.open(engine, threads=1)
    options = GenerateOptions(1200, ignore_eos=True)
    expected = [token.id for token in generate(runtime, tokenizer, [IDS[:30]], options)]
    with Host(engine, threads=1) as host:
        assert host.ask(IDS[:30], max_tokens=1200, ignore_eos=True)["ids"] == expected
        # Snapshots at the end of the prompt and 512 and 1024 tokens later.
        for length, cached in ((1228, 1054), (1053, 542), (541, 30), (30, 0)):
            prompt = np.array([*IDS[:30], *expected])[:length]
            reply = host.ask(prompt, max_tokens=1, ignore_eos=True)
            assert reply["cached_tokens"] == cached
            assert reply["ids"] == expected[length - 30 : length - 29]


def test_answers_that_were_cancelled(engine: Path, tokenizer: Tokenizer) -> None:
    runtime = runtimes.open(engine, threads=1)
    prompt = IDS[:200]
    with Host(engine, threads=1) as host:
        for _ in range(4):
            reply = host.ask(prompt, max_tokens=COUNT, ignore_eos=True, cancel_after=5)
            assert reply["status"] == CANCELLED
            prompt = np.array([*prompt, *reply["ids"], 7, 8])
        expected = [token.id for token in generate(runtime, tokenizer, [prompt], OPTIONS)]
        reply = host.ask(prompt, max_tokens=COUNT, ignore_eos=True)
        assert reply["ids"] == expected
        assert reply["cached_tokens"] >= prompt.size - 4
        # During the prompt, at any time.
        for wait in (1, 3, 10):
            reply = host.ask(IDS[:2500], max_tokens=1, cancel_after=0, cancel_wait_ms=wait)
            assert reply["status"] in (OK, CANCELLED)
            assert host.ask(prompt, max_tokens=COUNT, ignore_eos=True)["ids"] == expected


def test_ort_cuda(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "engine", HybridDecoder.random(), "ort-cuda")
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine))
    runtime = open_on_cpu(engine, chunk=100, cuda_graph=True)
    counting, cache = Counting(runtime), runtime.new_cache()
    with Host(engine, chunk=100, device="cpu", text=False) as host:
        for change in (0, 650, 0, "turn", "turn", 300, 5, "turn"):
            turn = np.array([*cache.tokens(0), *IDS[1200:1217]])
            prompt = edited(IDS[:700], change) if isinstance(change, int) else turn
            found = generate(counting, tokenizer, [prompt], OPTIONS, cache)  # type: ignore[arg-type]
            reply = host.ask(prompt, max_tokens=COUNT, ignore_eos=True)
            assert reply["status"] == OK, reply
            assert reply["ids"] == [token.id for token in found]
            assert reply["cached_tokens"] == prompt.size - counting.prefilled
