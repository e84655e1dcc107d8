"""Target ort-cuda in libedgekiln on device `cpu` generates the same tokens as Python's adapter on the CPU."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import RequestError
from edgekiln.runtimes.base import KVCache
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.sources.resolve import resolve
from support.cpp_host import CANCELLED, ENGINE, FINISHES, OK, REQUEST, UNSUPPORTED, Host, refusal
from support.cuda_engines import open_on_cpu, write_cuda_engine
from support.engines import LONG
from support.models import save_checkpoint

MAX_LENGTH = 600
CHUNK = 7
SAMPLING: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 1.2, "top_k": 40, "repetition_penalty": 1.15, "seed": 2},
]


@pytest.fixture(scope="module", params=[("llama", "none"), ("qwen3", "int4")], ids="-".join)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, quant = request.param
    directory = tmp_path_factory.mktemp("cuda")
    save_checkpoint(directory / "model", family, max_position_embeddings=MAX_LENGTH)
    write_cuda_engine(resolve(str(directory / "model")), directory / "engine", quant)
    return directory / "engine"


class Both:
    """One engine in Python and in C++."""

    def __init__(self, engine: Path) -> None:
        self.runtime = open_on_cpu(engine, chunk=CHUNK, cuda_graph=True)
        self.tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
        self.host = Host(engine, chunk=CHUNK, device="cpu", text=False)

    def compare(
        self, ids: np.ndarray, cache: KVCache | None = None, reset: bool = True, **options: Any
    ) -> dict[str, Any]:
        """Check that C++ and Python answer alike; `reset` empties the C++ session first. Returns the answer of C++."""
        reply = self.host.ask(ids, logprobs=True, ignore_eos=True, **options, **({"reset": True} if reset else {}))
        max_tokens = options.pop("max_tokens")
        asked = GenerateOptions(max_tokens, SamplingOptions(**options), ignore_eos=True, logprobs=True)
        tokens = list(generate(self.runtime, self.tokenizer, [ids], asked, cache))
        assert reply["ids"] == [token.id for token in tokens]
        assert FINISHES[reply["finish"]] == tokens[-1].finish_reason
        np.testing.assert_allclose(reply["logprobs"], [token.logprob for token in tokens], atol=1e-5)
        return reply


@pytest.fixture(scope="module")
def both(engine: Path) -> Iterator[Both]:
    pair = Both(engine)
    with pair.host:
        yield pair


def prompt(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, length)


def test_opens_with_one_thread_and_the_kernels_of_onnxruntime(both: Both) -> None:
    hello = both.host.hello
    assert (hello["status"], hello["target"], hello["kernels"], hello["threads"]) == (OK, "ort-cuda", "onnxruntime", 1)


# Prompts of one token, of one chunk, of a last chunk with one token, and of several chunks.
@pytest.mark.parametrize("length", [1, 2, CHUNK, 3 * CHUNK + 1, 60])
@pytest.mark.parametrize("sampling", SAMPLING, ids=["greedy", "seeded", "penalized"])
def test_tokens_are_those_of_python(both: Both, length: int, sampling: dict[str, Any]) -> None:
    both.compare(prompt(length), max_tokens=24, **sampling)


def test_growing_keeps_what_is_held(both: Both) -> None:
    # From a capacity of 256 to max_length, step by step, and in one prompt.
    assert both.compare(prompt(250), max_tokens=400)["generated_tokens"] == MAX_LENGTH - 250
    both.compare(prompt(520), max_tokens=8)


def test_a_session_goes_on_where_it_shares_its_tokens(both: Both) -> None:
    cache = both.runtime.new_cache()
    first, second = prompt(40), prompt(230, seed=1)
    start = both.compare(first, cache, max_tokens=12)
    longer = np.concatenate([first, start["ids"], second])
    reply = both.compare(longer, cache, reset=False, max_tokens=12, temperature=1.0, seed=4)
    # All but the answer's last token, which the graph never ran on.
    assert reply["cached_tokens"] == first.size + start["generated_tokens"] - 1
    # Back to within the first prompt.
    reply = both.compare(np.concatenate([first[:20], second[:9]]), cache, reset=False, max_tokens=12)
    assert reply["cached_tokens"] == 20


def test_sessions_of_one_engine_answer_at_once(both: Both) -> None:
    requests = [{"ids": prompt(30 + n, n).tolist(), "max_tokens": 20, "ignore_eos": True} for n in range(3)]
    alone = [both.host.ask(**request, reset=True)["ids"] for request in requests]
    concurrent: Any = both.host.ask(concurrent=requests)
    assert [reply["ids"] for reply in concurrent] == alone


def test_a_prompt_that_is_too_long(both: Both) -> None:
    reply = both.host.ask(prompt(MAX_LENGTH + 1), reset=True)
    assert reply["status"] == REQUEST
    with pytest.raises(RequestError) as caught:
        both.runtime.prefill(both.runtime.new_cache(), 0, prompt(MAX_LENGTH + 1))
    assert reply["error"] == str(caught.value)


def test_cancelling_between_steps(both: Both) -> None:
    whole = both.compare(prompt(500), max_tokens=40)
    cancelled = both.host.ask(prompt(500), max_tokens=40, ignore_eos=True, reset=True, cancel_after=10)
    assert (cancelled["status"], cancelled["ids"]) == (CANCELLED, whole["ids"][:10])
    assert both.host.ask(prompt(500), max_tokens=40, ignore_eos=True, reset=True)["ids"] == whole["ids"]


def test_cancelling_in_mid_prompt(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "llama", max_position_embeddings=LONG)
    write_cuda_engine(resolve(str(tmp_path / "model")), tmp_path / "engine", "none")
    ids = prompt(LONG // 4)
    with Host(tmp_path / "engine", device="cpu", chunk=16, text=False) as host:
        reply = host.ask(ids, cancel_after=0, cancel_wait_ms=300)
        assert (reply["status"], reply["ids"]) == (CANCELLED, [])
        whole = host.ask(ids[:100], max_tokens=4, ignore_eos=True)
        # Tokens computed before the cancellation are kept.
        assert whole["cached_tokens"] == 99
        assert host.ask(ids[:100], max_tokens=4, ignore_eos=True, reset=True)["ids"] == whole["ids"]


def test_devices_that_are_not_there(engine: Path, tiny_engine: Path) -> None:
    assert refusal(engine, device="tpu") == (
        REQUEST,
        "the device of target ort-cuda must be one of cuda, cpu, got tpu",
    )
    status, sentence = refusal(tiny_engine, device="cuda")
    assert (status, sentence) == (REQUEST, "the device of target ort-cpu must be one of cpu, got cuda")


def test_an_engine_of_another_layout(engine: Path, tmp_path: Path) -> None:
    shutil.copytree(engine, tmp_path / "engine")
    manifest = json.loads((engine / "engine.json").read_text())
    manifest["kv_cache"]["dtype"] = "float32"
    (tmp_path / "engine" / "engine.json").write_text(json.dumps(manifest))
    status, sentence = refusal(tmp_path / "engine", device="cpu")
    assert status == ENGINE
    assert "layout is shared-buffer float32, ort-cuda runs shared-buffer float16" in sentence


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this machine has CUDA")
def test_without_cuda_it_says_what_is_missing(engine: Path) -> None:
    status, sentence = refusal(engine)
    assert status == UNSUPPORTED
    assert sentence.endswith("as installed has no CUDA: put the libraries of its GPU release in its place")
