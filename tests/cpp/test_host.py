"""libedgekiln generates the tokens of the Python runtimes: greedy and seeded, for all families and within a session."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.runtimes.base import KernelsChoice, KVCache
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.ort.kernels import kernel_library
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.cpp_host import FINISHES, OK, Host
from support.engines import build

SAMPLING: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 2},
    {"temperature": 1.2, "min_p": 0.02, "repetition_penalty": 1.15, "seed": 2**64 - 1},
]
ENGINES = [
    ("llama", "int8", "float32"),
    ("llama", "int4", "int8"),
    ("qwen3", "int4", "float32"),
    ("gemma3_text", "int8", "float32"),
    ("gpt2", "none", "float32"),
    ("mixtral", "int8", "float32"),
]
SLOW = ("gemma3_text", "mixtral")  # tracing them takes long


class Both:
    """One engine in Python and in C++."""

    def __init__(self, engine: Path, kernels: KernelsChoice, text: bool = False, threads: int = 1) -> None:
        self.runtime = runtimes.open(engine, threads=threads, kernels=kernels)
        self.tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
        self.host = Host(engine, threads=threads, kernels=kernels, text=text)
        assert self.host.hello["status"] == OK, self.host.hello

    def python(self, ids: np.ndarray, max_tokens: int, cache: KVCache | None = None, **sampling: Any) -> dict[str, Any]:
        """Python's answer, in the form of a reply of the C++ program."""
        options = GenerateOptions(max_tokens=max_tokens, sampling=SamplingOptions(**sampling), logprobs=True)
        tokens = list(generate(self.runtime, self.tokenizer, [ids], options, cache))
        return {
            "ids": [token.id for token in tokens],
            "finish": tokens[-1].finish_reason,
            "logprobs": [token.logprob for token in tokens],
        }

    def compare(self, ids: np.ndarray, max_tokens: int) -> None:
        """Check that both generate the same tokens for every entry of SAMPLING."""
        for sampling in SAMPLING:
            expected = self.python(ids, max_tokens, **sampling)
            reply = self.host.ask(ids, max_tokens=max_tokens, logprobs=True, reset=True, **sampling)
            assert reply["ids"] == expected["ids"], sampling
            assert FINISHES[reply["finish"]] == expected["finish"]
            np.testing.assert_allclose(reply["logprobs"], expected["logprobs"], atol=1e-5)


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds the engine of an entry of `ENGINES` on first use."""
    return functools.cache(lambda *row: build(tmp_path_factory.mktemp("host"), *row))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((*row, kernels), id="-".join((*row, kernels)), marks=[pytest.mark.slow] if row[0] in SLOW else [])
        for row in ENGINES
        for kernels in get_args(KernelsChoice)
    ],
)
def both(request: pytest.FixtureRequest, engines: Callable[..., Path]) -> Iterator[Both]:
    *row, kernels = request.param
    assert kernels != "edgekiln" or kernel_library() is not None, "edgekiln's kernels are not built: make kernels"
    pair = Both(engines(*row), kernels)
    with pair.host:
        yield pair


def prompts(count: int, vocab_size: int = 256, longest: int = 150) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, vocab_size, generator.integers(1, longest)) for _ in range(count)]


def test_tokens_are_those_of_python(both: Both) -> None:
    assert both.host.hello["kernels"] == both.runtime.kernels
    for ids in prompts(4):
        both.compare(ids, max_tokens=40)


def test_a_session_goes_on_where_it_shares_its_tokens(both: Both) -> None:
    first, second = prompts(2, longest=40)
    cache = both.runtime.new_cache()
    both.python(first, 12, cache)
    start = both.host.ask(first, max_tokens=12, reset=True)
    longer = np.concatenate([first, start["ids"], second])
    expected = both.python(longer, 12, cache, temperature=1.0, seed=4)
    reply = both.host.ask(longer, max_tokens=12, temperature=1.0, seed=4)
    # All but the answer's last token, which the graph never ran on.
    assert reply["cached_tokens"] == first.size + start["generated_tokens"] - 1
    assert reply["prompt_tokens"] == longer.size
    assert reply["ids"] == expected["ids"]


def test_answers_end_where_the_engine_is_full(both: Both) -> None:
    ids = np.random.default_rng(1).integers(0, 256, 250)
    expected = both.python(ids, 100)
    reply = both.host.ask(ids, max_tokens=100, reset=True)
    assert reply["ids"] == expected["ids"]
    assert FINISHES[reply["finish"]] == expected["finish"]


def test_sessions_of_one_engine_answer_at_once(both: Both) -> None:
    texts = prompts(4)
    expected = [both.python(ids, 30, **sampling)["ids"] for ids, sampling in zip(texts, SAMPLING, strict=True)]
    requests = [
        {"ids": ids.tolist(), "max_tokens": 30, **sampling} for ids, sampling in zip(texts, SAMPLING, strict=True)
    ]
    replies: Any = both.host.ask(concurrent=requests)
    assert [reply["ids"] for reply in replies] == expected


@pytest.mark.slow
@pytest.mark.usefixtures("all_cores")
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_tokens_of_a_real_model(quant: str, real_engine: Callable[[str], Path]) -> None:
    both = Both(real_engine(quant), "edgekiln", threads=2)
    with both.host:
        for text in ("The capital of France is", "def fibonacci(n):\n", "Once upon a time, " * 80):
            both.compare(both.tokenizer.encode(text), max_tokens=24)
