"""Speculation does not change tokens, for any draft and any end of the answer; on a runtime with known logits."""

import numpy as np
import pytest

from edgekiln.errors import EdgekilnError
from edgekiln.runtimes import Properties
from edgekiln.runtimes.generate import speculative_decoder
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
from edgekiln.runtimes.kv_cache import RaggedKVCache
from edgekiln.runtimes.sampling.sampler import SamplingOptions

VOCABULARY, MAX_LENGTH, MAX_VERIFY_TOKENS = 16, 160, 8
PROPERTIES = Properties("fake", VOCABULARY, MAX_LENGTH, 0, (), ())
PROMPT = np.array([1, 4, 5, 6, 7, 3, 4, 5, 6, 7, 3, 4, 5])
SAMPLINGS = [
    SamplingOptions(),
    SamplingOptions(repetition_penalty=1.3),
    SamplingOptions(temperature=0.7, top_p=0.9, repetition_penalty=1.05, seed=7),
]


class FakeKVCache(RaggedKVCache):
    def _swap(self, first: int, second: int) -> None:
        raise NotImplementedError

    def _copy(self, source: int, target: int, length: int) -> None:
        raise NotImplementedError

    def _grow(self, capacity, used):
        pass


class FakeRuntime:
    """Logits are a function of the ids up to their position. They favor a pattern of five tokens, with exceptions."""

    max_verify_tokens = MAX_VERIFY_TOKENS
    properties = PROPERTIES

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.fails_from = 1000

    def new_cache(self, batch_size=1):
        return FakeKVCache(PROPERTIES, batch_size)

    def prefill(self, cache, sequence, tokens):
        return self._run(cache, sequence, tokens)[-1]

    def step(self, cache, tokens):
        self.runs.append(1)
        return np.stack(
            [self._run(cache, sequence, tokens[sequence : sequence + 1])[0] for sequence in range(cache.batch_size)]
        )

    def verify(self, cache, sequence, tokens):
        assert 1 < tokens.size <= MAX_VERIFY_TOKENS
        # The last token up to the max_length is drawn but not run.
        assert cache.lengths[sequence] + tokens.size < MAX_LENGTH
        self.runs.append(tokens.size)
        if len(self.runs) >= self.fails_from:
            raise EdgekilnError("it broke")
        return self._run(cache, sequence, tokens)

    def _run(self, cache, sequence, tokens):
        cache.reserve(int(cache.lengths[sequence]) + len(tokens))
        logits = []
        for token in tokens:
            cache.append(sequence, np.array([token]))
            held = cache.tokens(sequence)
            generator = np.random.default_rng(held.tolist())
            scores = generator.normal(0, 1, VOCABULARY).astype(np.float32)
            scores[int(generator.integers(3)) if generator.random() < 0.1 else held.size % 5 + 3] += 4
            logits.append(scores)
        return np.stack(logits)


class FakeTokenizer:
    """One letter per token; the last id ends an answer."""

    eos_ids = frozenset({VOCABULARY - 1})

    def stream(self, *_):
        return self

    def token_bytes(self, token):
        return self.push(token).encode()

    def push(self, token):
        return chr(ord("a") + token)

    def flush(self):
        return ""

    def end_within(self, _token, _size):
        return ""


class FakeTime:
    """Every run takes the same time for any number of tokens, so that drafting is worthwhile."""

    now = 0.0

    def perf_counter(self):
        self.now += 1
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(speculative_decoder, "time", FakeTime())


def answer(options, most=None, eos=None, prompt=PROMPT):
    """Generate an answer, closing the iterator after `most` tokens; returns tokens, runtime, cached ids and stats."""
    runtime, tokenizer, stats = FakeRuntime(), FakeTokenizer(), SpeculationStats()
    tokenizer.eos_ids = frozenset() if eos is None else frozenset({eos})
    cache = runtime.new_cache()
    stream = generate(runtime, tokenizer, [prompt], options, cache, stats)
    tokens = list(stream) if most is None else [next(stream) for _ in range(most)]
    stream.close()
    return tokens, runtime, cache.tokens(0).tolist(), stats


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_tokens_are_the_same_and_take_fewer_runs(sampling):
    plain, stepped, held, none = answer(GenerateOptions(120, sampling, logprobs=True, speculate=False))
    tokens, runtime, held_too, stats = answer(GenerateOptions(120, sampling, logprobs=True))
    assert tokens == plain
    assert held_too == held == [*PROMPT, *(token.id for token in tokens[:-1])]
    assert none == SpeculationStats(0, 0)
    assert len(stepped.runs) == 119
    assert stats.drafted == sum(runtime.runs) - len(runtime.runs)
    assert stats.accepted == 119 - len(runtime.runs) > 20
    assert max(runtime.runs) > 4


class Cyclic:
    """Allows three tokens, others after each token, and 40 tokens in all."""

    def start(self):
        return CyclicState()


class CyclicState:
    accepted = 0
    last = 0

    def allowed(self):
        return np.array([sum(1 << (self.last + step) % VOCABULARY for step in (1, 3, 7))], dtype=np.uint32)

    def accept(self, token):
        self.accepted, self.last = self.accepted + 1, token

    @property
    def ended(self):
        return self.accepted == 40


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_tokens_are_the_same_under_a_constraint(monkeypatch, sampling):
    monkeypatch.setattr(speculative_decoder.Speculation, "draft_length", lambda _: MAX_VERIFY_TOKENS - 1)
    plain, *_ = answer(GenerateOptions(60, sampling, speculate=False, constraint=Cyclic()))
    free, *_ = answer(GenerateOptions(40, sampling, speculate=False))
    tokens, _, held, stats = answer(GenerateOptions(60, sampling, constraint=Cyclic()))
    assert tokens == plain
    assert [token.id for token in tokens] != [token.id for token in free]
    assert len(tokens) == 40
    assert tokens[-1].finish_reason == "stop"
    assert stats.drafted > stats.accepted > 0
    assert held == [*PROMPT, *(token.id for token in tokens[:-1])]


@pytest.mark.parametrize("draft", [[], [0], [5, 6, 7], list(range(MAX_VERIFY_TOKENS - 1))])
def test_any_draft_gives_the_same_tokens(monkeypatch, draft):
    plain, *_ = answer(GenerateOptions(60, SAMPLINGS[2], speculate=False))
    monkeypatch.setattr(speculative_decoder.PromptLookup, "draft", lambda _, most: draft[:most])
    monkeypatch.setattr(speculative_decoder.Speculation, "draft_length", lambda _: MAX_VERIFY_TOKENS - 1)
    tokens, runtime, held, _ = answer(GenerateOptions(60, SAMPLINGS[2]))
    assert tokens == plain
    assert max(runtime.runs) == len(draft) + 1
    assert held == [*PROMPT, *(token.id for token in tokens[:-1])]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_answer_may_end_at_any_token(sampling):
    whole = [token.id for token in answer(GenerateOptions(60, sampling))[0]]
    for count in range(1, 50):
        ends = {
            "dropped": answer(GenerateOptions(60, sampling), most=count),
            "length": answer(GenerateOptions(count, sampling)),
        }
        last = whole[count - 1]
        if last not in whole[: count - 1]:
            ends["eos"] = answer(GenerateOptions(60, sampling), eos=last)
            ends["stop"] = answer(GenerateOptions(60, sampling, stop=(chr(ord("a") + last),)))
        for reason, (tokens, _, held, _) in ends.items():
            assert [token.id for token in tokens] == whole[:count]
            assert tokens[-1].finish_reason == (None if reason == "dropped" else reason)
            assert held == [*PROMPT, *whole[: count - 1]]


def test_an_answer_ends_where_the_engine_is_full():
    tokens, runtime, held, _ = answer(GenerateOptions(1000))
    assert tokens[-1].finish_reason == "length"
    assert len(tokens) == MAX_LENGTH - PROMPT.size
    assert len(held) == MAX_LENGTH - 1
    assert max(runtime.runs) > 4


def test_a_failed_run_keeps_the_accepted_tokens():
    runtime, cache = FakeRuntime(), FakeKVCache(PROPERTIES, 1)
    runtime.fails_from = 6
    tokens = []
    with pytest.raises(EdgekilnError, match="it broke"):
        tokens.extend(token.id for token in generate(runtime, FakeTokenizer(), [PROMPT], GenerateOptions(60), cache))
    whole = [token.id for token in answer(GenerateOptions(60))[0]]
    held = cache.tokens(0).tolist()[PROMPT.size :]
    assert held
    assert held == whole[: len(held)]


def test_batches_do_not_speculate():
    runtime, stats = FakeRuntime(), SpeculationStats()
    options = GenerateOptions(30)
    tokens = list(generate(runtime, FakeTokenizer(), [PROMPT, PROMPT[:7]], options, stats=stats))
    assert set(runtime.runs) == {1}
    assert stats == SpeculationStats(0, 0)
    assert [token.id for token in tokens if token.index == 1] == [
        token.id for token in answer(options, prompt=PROMPT[:7])[0]
    ]


def test_a_runtime_without_verification_does_not_speculate(monkeypatch):
    monkeypatch.setattr(FakeRuntime, "max_verify_tokens", 1)
    assert set(answer(GenerateOptions(30))[1].runs) == {1}
