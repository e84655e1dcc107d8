"""Requests get the tokens that they get alone, whenever they arrive; limits, errors, cancellation and shutdown."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.runtimes.base import Ids, KVCache, Logits, Runtime
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.scheduler.options import QueueFullError, SchedulerOptions, ShuttingDownError
from edgekiln.runtimes.scheduler.request import Request
from edgekiln.runtimes.scheduler.scheduler import Scheduler
from edgekiln.runtimes.scheduler.slots import Slots
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.hybrid_engine import HYBRID, HybridDecoder, write_engine
from support.requests import WAIT_S, Client

Prompt = tuple[np.ndarray, GenerateOptions]


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Callable[..., Scheduler]:
    """A function that makes a scheduler, which is closed after the test."""

    def start(runtime: Runtime, tokenizer: Tokenizer, *arguments: Any, **options: Any) -> Scheduler:
        scheduler = Scheduler(runtime, tokenizer, SchedulerOptions(**options), *arguments)
        request.addfinalizer(scheduler.close)
        return scheduler

    return start


@pytest.fixture(scope="module")
def runtime(engine: Path) -> Runtime:
    return runtimes.open(engine, threads=1)


@pytest.fixture(scope="module")
def tokenizer(engine: Path) -> Tokenizer:
    return Tokenizer.from_engine(engine, read_manifest(engine))


def random_requests(count: int, vocabulary: int, longest: int, seed: int = 0) -> list[Prompt]:
    """Prompts, every third with a common beginning, and options: greedy ones and seeded ones."""
    generator = np.random.default_rng(seed)
    system = generator.integers(3, vocabulary, longest)
    requests = []
    for index in range(count):
        prompt = generator.integers(3, vocabulary, int(generator.integers(1, longest)))
        if index % 3 == 0:
            prompt = np.concatenate([system[: int(generator.integers(longest // 6, longest))], prompt])
        sampling = SamplingOptions(temperature=0.9, top_p=0.95, seed=index) if index % 2 else SamplingOptions()
        requests.append((prompt, GenerateOptions(int(generator.integers(1, 40)), sampling, ignore_eos=index % 4 == 0)))
    return requests


def check_equality(
    scheduler: Scheduler, requests: Sequence[Prompt], alone: Sequence[list[int]], pause_s: float
) -> None:
    """Requests give the tokens `alone`: at random times, and again all at once in the other order."""
    generator = np.random.default_rng(1)
    clients = []
    for prompt, options in requests:
        clients.append(Client(scheduler, prompt, options))
        time.sleep(generator.exponential(pause_s))
    assert [client.answer() for client in clients] == list(alone)
    again = [Client(scheduler, prompt, options) for prompt, options in requests[::-1]]
    assert [client.answer() for client in again] == list(alone)[::-1]
    stats = scheduler.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.generated_tokens == 2 * sum(map(len, alone))
    assert stats.prompt_tokens + stats.cached_tokens == 2 * sum(prompt.size for prompt, _ in requests)
    assert stats.cached_tokens == sum(client.ticket.cached_tokens for client in clients + again)
    assert max(stats.steps) > 1


@pytest.mark.parametrize("slots", [2, 5])
def test_answers_are_those_of_generate(
    runtime: Runtime, tokenizer: Tokenizer, start: Callable[..., Scheduler], slots: int
) -> None:
    requests = random_requests(24, 250, 90)
    alone = [[token.id for token in generate(runtime, tokenizer, [ids], options)] for ids, options in requests]
    scheduler = start(runtime, tokenizer, slots=slots)
    check_equality(scheduler, requests, alone, 0.002)
    assert scheduler.stats().cached_tokens > 100


def test_answers_of_an_engine_with_states(
    tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Scheduler]
) -> None:
    engine = write_engine(tmp_path_factory.mktemp("hybrid") / "engine", HybridDecoder.random(HYBRID))
    runtime = runtimes.open(engine, threads=1)
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine))
    requests = random_requests(16, 250, 90)
    alone = [[token.id for token in generate(runtime, tokenizer, [ids], options)] for ids, options in requests]
    check_equality(start(runtime, tokenizer, slots=4), requests, alone, 0.002)


@pytest.mark.parametrize(
    ("quant", "count"), [("int4", 12), *(pytest.param(each, 64, marks=pytest.mark.slow) for each in ("int4", "int8"))]
)
def test_answers_of_a_quantized_model_with_edgekiln_kernels(
    real_engine: Callable[[str], Path], start: Callable[..., Scheduler], quant: str, count: int
) -> None:
    engine = real_engine(quant)
    runtime = runtimes.open(engine)
    if runtime.kernels == "onnxruntime":
        pytest.skip("edgekiln's kernels are not built")
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine))
    requests = random_requests(count, 40000, 330)
    alone = []
    for prompt, options in requests:
        scheduler = start(runtime, tokenizer, slots=1)
        alone.append(Client(scheduler, prompt, options).answer())
        scheduler.close()
    check_equality(start(runtime, tokenizer, slots=count // 2), requests, alone, 0.02)


@pytest.mark.parametrize("quant", ["int4", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_step_of_many_sequences_gives_each_the_logits_of_one(real_engine: Callable[[str], Path], quant: str) -> None:
    runtime = runtimes.open(real_engine(quant))
    if runtime.kernels == "onnxruntime":
        pytest.skip("edgekiln's kernels are not built")
    count = 100  # more than the tokens from which a prompt runs another GEMM
    prompt = np.random.default_rng(0).integers(3, 40000, count + 1)
    many, one = runtime.new_cache(count), runtime.new_cache(2)
    runtime.prefill(many, 0, prompt[:count])
    runtime.prefill(one, 1, prompt[:count])
    for sequence in range(1, count):
        many.copy(0, sequence, sequence)
    tokens = np.roll(prompt[1:], 1)  # of each sequence the next one of the prompt
    logits = runtime.step(many, tokens).copy()
    for sequence in (5, 40, count - 1):
        one.copy(1, 0, sequence)
        np.testing.assert_array_equal(runtime.step(one, tokens[sequence : sequence + 1])[0], logits[sequence])


def test_a_limit_on_the_length(runtime: Runtime, tokenizer: Tokenizer, start: Callable[..., Scheduler]) -> None:
    scheduler = start(runtime, tokenizer, slots=2, max_length=20)
    prompt = np.arange(3, 18)
    assert len(Client(scheduler, prompt, GenerateOptions(ignore_eos=True)).answer()) == 5
    with pytest.raises(
        RequestError, match="prompt has 20 tokens, the limit is 20 with the answer: shorten it or raise"
    ):
        Client(scheduler, np.arange(3, 23), GenerateOptions())


def test_a_prompt_is_computed_in_parts_beside_an_answer_and_whole_alone(
    runtime: Runtime, tokenizer: Tokenizer, start: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, prefill = [], runtime.prefill

    def record(cache: KVCache, sequence: int, tokens: Ids) -> Logits:
        sizes.append(tokens.size)
        return prefill(cache, sequence, tokens)

    monkeypatch.setattr(runtime, "prefill", record)
    scheduler = start(runtime, tokenizer, slots=2)
    first = Client(scheduler, np.arange(3, 131), GenerateOptions(500, ignore_eos=True))
    while not first.tokens:
        time.sleep(0.001)
    Client(scheduler, np.arange(103, 3, -1), GenerateOptions(2)).answer()
    Client(scheduler, np.arange(4, 404) % 200 + 3, GenerateOptions(2)).answer()
    first.ticket.cancel()
    part = runtime.chunk // 8
    assert sizes[:5] == [128, part, part, part, 100 - 3 * part]
    assert sum(sizes[5:]) == 400
    assert max(sizes[5:]) == 400 // 8


def test_a_conversation_computes_only_its_new_tokens(
    runtime: Runtime, tokenizer: Tokenizer, start: Callable[..., Scheduler]
) -> None:
    scheduler = start(runtime, tokenizer, slots=3)
    prompt = np.arange(10, 60)
    for turn in range(4):
        client = Client(scheduler, prompt, GenerateOptions(8, ignore_eos=True))
        answer = client.answer()
        assert client.ticket.cached_tokens == (prompt.size - 4 if turn else 0)
        Client(scheduler, np.arange(100, 130), GenerateOptions(3, ignore_eos=True)).answer()
        prompt = np.array([*prompt, *answer, 70 + turn, 80, 90])


def test_a_cancelled_answer_ends_without_a_reason_and_others_go_on(
    runtime: Runtime, tokenizer: Tokenizer, start: Callable[..., Scheduler]
) -> None:
    scheduler = start(runtime, tokenizer, slots=2, max_waiting=3)
    options = GenerateOptions(500, ignore_eos=True)
    clients = [Client(scheduler, np.arange(5, 9) + index, options) for index in range(5)]
    while not clients[0].tokens:
        time.sleep(0.001)
    for client in (clients[0], clients[2], clients[4]):
        client.ticket.cancel()
        client.wait()
        assert client.error is None
        assert all(token.finish_reason is None for token in client.tokens)
    for index in (1, 3):
        assert len(clients[index].answer()) == 500
        expected = [token.id for token in generate(runtime, tokenizer, [np.arange(5, 9) + index], options)]
        assert clients[index].answer() == expected
    clients[1].ticket.cancel()


def test_a_full_queue(runtime: Runtime, tokenizer: Tokenizer, start: Callable[..., Scheduler]) -> None:
    scheduler = start(runtime, tokenizer, slots=1, max_waiting=2)
    options = GenerateOptions(400, ignore_eos=True)
    clients = [Client(scheduler, np.arange(5, 9), options) for _ in range(3)]
    with pytest.raises(QueueFullError, match="requests are waiting, the most that may: try again later") as error:
        Client(scheduler, np.arange(5, 9), options)
    assert error.value.retry_after_s >= 1
    answers = [client.answer() for client in clients]
    assert answers[0] == answers[1] == answers[2]


def test_memory_is_bounded(runtime: Runtime, tokenizer: Tokenizer, start: Callable[..., Scheduler]) -> None:
    scheduler = start(runtime, tokenizer, lambda tokens: 10 * tokens, slots=4, kv_memory=1000)
    with pytest.raises(RequestError, match="prompt of 50 tokens and an answer of up to 51 take 1010 bytes of KV cache"):
        Client(scheduler, np.arange(5, 55), GenerateOptions(51))
    options = GenerateOptions(20, ignore_eos=True)
    clients = [Client(scheduler, np.arange(5, 25) + index, options) for index in range(6)]
    most = 0
    while any(not client.tokens or client.tokens[-1].finish_reason is None for client in clients):
        stats = scheduler.stats()
        most = max(most, stats.kv_bytes)
        time.sleep(0.001)
    assert [len(client.answer()) for client in clients] == [20] * 6
    assert 400 <= most <= 1000


def test_an_error_of_the_engine_ends_the_answers_that_run_and_no_others(
    runtime: Runtime, tokenizer: Tokenizer, start: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = start(runtime, tokenizer, slots=2)
    options = GenerateOptions(300, ignore_eos=True)
    first = Client(scheduler, np.arange(5, 9), options)
    while not first.tokens:
        time.sleep(0.001)

    def fail(*_: object) -> None:
        monkeypatch.undo()
        raise EdgekilnError("ONNX Runtime failed while running the engine: no memory")

    monkeypatch.setattr(runtime, "step", fail)
    monkeypatch.setattr(runtime, "verify", fail)
    first.wait()
    assert isinstance(first.error, EdgekilnError)
    assert len(Client(scheduler, np.arange(5, 9), options).answer()) == 300


def test_a_request_without_memory_ends_and_others_go_on(
    runtime: Runtime, tokenizer: Tokenizer, start: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = start(runtime, tokenizer, slots=2)
    first = Client(scheduler, np.arange(5, 9), GenerateOptions(500, ignore_eos=True))
    while not first.tokens:
        time.sleep(0.001)
    place = Slots.place

    def fail(self: Slots, request: Request, index: int) -> int:
        monkeypatch.setattr(Slots, "place", place)
        raise MemoryError

    monkeypatch.setattr(Slots, "place", fail)
    second = Client(scheduler, np.arange(15, 19), GenerateOptions(5, ignore_eos=True))
    second.wait()
    assert isinstance(second.error, MemoryError)
    assert not second.tokens
    assert len(Client(scheduler, np.arange(15, 19), GenerateOptions(5, ignore_eos=True)).answer()) == 5
    assert len(first.answer()) == 500


def test_closing_lets_answers_end_in_time_and_cuts_the_others(
    runtime: Runtime, tokenizer: Tokenizer, start: Callable[..., Scheduler]
) -> None:
    scheduler = start(runtime, tokenizer, slots=1)
    short = [Client(scheduler, np.arange(5, 9), GenerateOptions(5, ignore_eos=True)) for _ in range(3)]
    scheduler.close(drain_s=WAIT_S)
    assert [len(client.answer()) for client in short] == [5] * 3
    with pytest.raises(ShuttingDownError, match="shutting down"):
        Client(scheduler, np.arange(5, 9), GenerateOptions(5))
    scheduler = start(runtime, tokenizer, slots=1)
    long = [Client(scheduler, np.arange(5, 9), GenerateOptions(590, ignore_eos=True)) for _ in range(3)]
    while not long[0].tokens:
        time.sleep(0.001)
    scheduler.close()
    for client in long:
        client.wait()
        assert client.error is None
    assert not long[2].tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "slots must be at least 1, got 0"),
        ({"max_waiting": -1}, "max_waiting must be 0 or more, got -1"),
        ({"max_length": 1}, "max_length must be at least 2 tokens, got 1"),
        ({"reserve": -1}, "reserve must be 0 or more tokens, got -1"),
        ({"kv_memory": 0}, "kv_memory must be at least 1 byte, got 0"),
    ],
)
def test_limits_out_of_range(options: dict[str, int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SchedulerOptions(**options)
