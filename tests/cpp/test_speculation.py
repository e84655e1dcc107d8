"""Speculative decoding in libedgekiln changes no token: answers with and without it, and Python's, are equal."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.ort.kernels import kernel_library
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.cpp_host import CANCELLED, FINISHES, OK, Host
from support.engines import build

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="edgekiln's kernels are not built: make kernels")

PROMPT = np.tile([5, 71, 5, 130], 8)
# A penalty below 1 favors tokens seen before, so answers repeat themselves and many drafts are found.
SAMPLING: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 0.05},
    {"temperature": 0.5, "repetition_penalty": 0.05, "seed": 4},
    {"temperature": 0.3, "top_p": 0.9, "repetition_penalty": 0.2, "seed": 5},
    {"temperature": 0.8, "top_k": 40, "repetition_penalty": 1.1, "seed": 6},
]


@pytest.fixture(
    scope="module",
    params=[("llama", "int8", "float32"), ("llama", "int4", "float32"), ("llama", "int4", "int8")],
    ids="-".join,
)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("speculation"), *request.param)


@pytest.fixture
def host(engine: Path) -> Iterator[Host]:
    with Host(engine, threads=1, text=False) as host:
        assert host.hello["status"] == OK, host.hello
        yield host


def test_tokens_are_the_same(engine: Path, host: Host) -> None:
    runtime = runtimes.open(engine, threads=1)
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
    drafted = accepted = 0
    for sampling in SAMPLING:
        request = {"max_tokens": 120, "ignore_eos": True, "logprobs": True, "reset": True} | sampling
        plain = host.ask(PROMPT, speculate=False, **request)
        reply = host.ask(PROMPT, **request)
        assert reply["ids"] == plain["ids"], sampling
        assert reply["logprobs"] == plain["logprobs"]
        assert plain["drafted_tokens"] == plain["accepted_tokens"] == 0
        options = GenerateOptions(max_tokens=120, ignore_eos=True, sampling=SamplingOptions(**sampling))
        assert reply["ids"] == [token.id for token in generate(runtime, tokenizer, [PROMPT], options)]
        drafted += reply["drafted_tokens"]
        accepted += reply["accepted_tokens"]
    assert drafted >= accepted > 0


def test_the_cache_holds_what_was_given(host: Host) -> None:
    whole = host.ask(PROMPT, max_tokens=100, ignore_eos=True, speculate=False, **SAMPLING[1])["ids"]
    for size in range(1, 40, 3):
        for end in ({"max_tokens": size}, {"refuse_after": size}):
            request = {"max_tokens": 100, "ignore_eos": True, "reset": True} | SAMPLING[1] | end
            replies = []
            for speculate in (False, True):
                reply = host.ask(PROMPT, **request, speculate=speculate)
                assert reply["status"] == (OK if "max_tokens" in end else CANCELLED)
                assert reply["ids"] == whole[:size]
                longer = np.concatenate([PROMPT, reply["ids"], [7]])
                replies.append(host.ask(longer, max_tokens=8, ignore_eos=True))
                # All but the answer's last token, which the graph never ran on.
                assert replies[-1]["cached_tokens"] == PROMPT.size + size - 1
            assert replies[0]["ids"] == replies[1]["ids"]


def test_answers_end_where_the_engine_is_full(host: Host) -> None:
    request = {"max_tokens": 1000, "ignore_eos": True, "reset": True} | SAMPLING[1]
    reply = host.ask(PROMPT, **request)
    assert FINISHES[reply["finish"]] == "length"
    assert PROMPT.size + len(reply["ids"]) == host.hello["max_length"]
    assert reply["ids"] == host.ask(PROMPT, speculate=False, **request)["ids"]


def test_onnxruntime_kernels_do_not_speculate(engine: Path) -> None:
    with Host(engine, threads=1, kernels="onnxruntime", text=False) as host:
        reply = host.ask(PROMPT, max_tokens=60, ignore_eos=True, **SAMPLING[1])
        assert reply["status"] == OK
        assert reply["drafted_tokens"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("all_cores")
def test_tokens_of_a_real_model(real_engine: Callable[[str], Path]) -> None:
    code = "def area(width, height):\n    return width * height\n\n\n" * 3
    accepted = 0
    with Host(real_engine("int4"), threads=2) as host:
        for sampling in SAMPLING:
            request = {"text": code, "max_tokens": 96, "ignore_eos": True, "reset": True} | sampling
            reply = host.ask(**request)
            assert reply["ids"] == host.ask(speculate=False, **request)["ids"], sampling
            accepted += reply["accepted_tokens"]
    assert accepted > 0
