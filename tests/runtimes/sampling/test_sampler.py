"""Filters compared with the logits processors of transformers, and draws with their probabilities."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekiln.engine.manifest import SamplingDefaults
from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.runtimes.sampling.filters import min_p, pick, top_k, top_p
from edgekiln.runtimes.sampling.penalties import CountPenalty, LogitBias
from edgekiln.runtimes.sampling.sampler import Sampled, Sampler, SamplingOptions

torch = pytest.importorskip("torch")
processors = pytest.importorskip("transformers.generation.logits_process")


def normal(size: int, seed: int, spread: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def kept_by(processor, scores: np.ndarray) -> list[int]:
    out = processor(torch.zeros((1, 1), dtype=torch.long), torch.tensor(scores)[None])[0]
    return torch.isfinite(out).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [5, 700, 49152])
class TestFiltersAreThoseOfTransformers:
    @pytest.mark.parametrize("k", [1, 4, 50])
    def test_top_k(self, size, seed, k):
        scores = normal(size, seed)
        assert top_k(scores, k).tolist() == kept_by(processors.TopKLogitsWarper(k), scores)

    @pytest.mark.parametrize("p", [0.001, 0.3, 0.9, 0.999])
    @pytest.mark.parametrize("spread", [0.5, 4.0])
    def test_top_p(self, size, seed, p, spread):
        # In float64: transformers' cumulative sum over a vocabulary in float32 is off by a few tokens at 0.999.
        scores = normal(size, seed, spread)
        assert top_p(scores, p).tolist() == kept_by(processors.TopPLogitsWarper(p), scores.astype(np.float64))

    @pytest.mark.parametrize("p", [0.01, 0.2, 1.0])
    def test_min_p(self, size, seed, p):
        scores = normal(size, seed)
        assert min_p(scores, p).tolist() == kept_by(processors.MinPLogitsWarper(p), scores)


def test_ties_are_kept_together():
    scores = np.array([1, 5, 5, 0, 5], dtype=np.float32)
    assert top_k(scores, 2).tolist() == [1, 2, 4]
    assert top_p(scores, 0.5).tolist() == [1, 2, 4]
    assert min_p(scores, 1.0).tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=1.0),
        SamplingOptions(temperature=0.7, top_k=5),
        SamplingOptions(temperature=1.5, top_p=0.8),
        SamplingOptions(temperature=0.9, top_k=12, top_p=0.9, min_p=0.1, repetition_penalty=1.3),
    ],
)
def test_draws_follow_the_probabilities_of_transformers(options):
    logits, prompt = normal(20, 1, 2.0), np.array([3, 4, 4, 19])
    scores = torch.tensor(logits)[None]
    chain = processors.LogitsProcessorList()
    if options.repetition_penalty != 1:
        chain.append(processors.RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    chain.append(processors.TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        chain.append(processors.TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        chain.append(processors.TopPLogitsWarper(options.top_p))
    if options.min_p:
        chain.append(processors.MinPLogitsWarper(options.min_p))
    expected = torch.softmax(chain(torch.tensor(prompt)[None], scores)[0], -1).numpy()

    draws = 4000
    sampler = Sampler(SamplingOptions(**(vars(options) | {"seed": 5})), batch_size=draws)
    counts = np.zeros(20)
    for index in range(draws):
        sampler.observe(index, prompt)
        counts[sampler.sample(index, logits).token] += 1
    assert counts[expected == 0].sum() == 0
    deviation = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(counts / draws - expected) <= 4.5 * deviation + 1e-9).all()


def test_the_penalty_is_that_of_transformers_and_includes_the_answer():
    logits = np.linspace(1.0, 2.0, 30, dtype=np.float32)
    sampler = Sampler(SamplingOptions(repetition_penalty=1.8))
    seen = [1, 5, 5]
    sampler.observe(0, np.array(seen))
    reference = processors.RepetitionPenaltyLogitsProcessor(1.8)
    before = logits.copy()
    for _ in range(12):
        expected = int(reference(torch.tensor(seen)[None], torch.tensor(logits)[None]).argmax())
        assert sampler.sample(0, logits).token == expected
        seen.append(expected)
    assert seen[3:] == list(range(29, 17, -1))
    np.testing.assert_array_equal(logits, before)


def test_greedy_takes_the_lowest_id_of_equal_logits():
    assert Sampler(SamplingOptions()).sample(0, np.array([0, 7, 3, 7], dtype=np.float32)) == Sampled(1)


def test_the_log_probability_is_of_the_raw_logits():
    logits = normal(400, 3)
    options = SamplingOptions(temperature=0.5, top_k=3, repetition_penalty=2.0, seed=1)
    sampler = Sampler(options)
    sampler.observe(0, np.arange(200))
    sampled = sampler.sample(0, logits, logprob=True)
    token, logprob = sampled.token, sampled.logprob
    expected = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), -1)[token]
    assert logprob == pytest.approx(float(expected), abs=1e-5)


def test_a_seed_reproduces_draws_and_sequences_differ():
    logits, options = normal(1000, 4, 0.5), SamplingOptions(temperature=1.0, seed=11)

    def answers() -> list[list[int]]:
        sampler = Sampler(options, batch_size=3)
        return [[sampler.sample(index, logits).token for _ in range(20)] for index in range(3)]

    first = answers()
    assert answers() == first
    assert first[0] != first[1] != first[2]
    single = Sampler(options)
    assert [single.sample(0, logits).token for _ in range(20)] == first[0]


def test_without_a_seed_draws_differ_and_the_seed_is_available():
    logits = normal(5000, 4, 0.1)
    first, second = Sampler(SamplingOptions(temperature=1.0)), Sampler(SamplingOptions(temperature=1.0))
    draws = [first.sample(0, logits).token for _ in range(10)]
    assert draws != [second.sample(0, logits).token for _ in range(10)]
    again = Sampler(SamplingOptions(temperature=1.0, seed=first.seed))
    assert [again.sample(0, logits).token for _ in range(10)] == draws


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=1000), st.floats(0, 1, exclude_max=True))
@settings(max_examples=200, deadline=None)
def test_pick_is_the_inverse_of_the_cumulative_sum(weights, uniform):
    values = np.array([*weights, 1.0], dtype=np.float32)
    chosen = pick(values, uniform)
    exact = [math.fsum(values[:stop].tolist()) for stop in (chosen, chosen + 1, values.size)]
    target = uniform * exact[2]
    assert exact[0] - 1e-9 <= target <= exact[1] + 1e-9


@pytest.mark.parametrize("temperature", [1e-5, 1e-6, 1e-37, 1e-300, 5e-324])
def test_small_temperatures_are_greedy(temperature):
    logits = normal(1000, 6)
    logits[:2] = -np.inf, -3e38
    sampler = Sampler(SamplingOptions(temperature=temperature, top_k=50, top_p=0.9, min_p=0.1, seed=0))
    assert {sampler.sample(0, logits).token for _ in range(10)} == {int(logits.argmax())}


def test_small_temperatures_share_between_equal_logits():
    sampler = Sampler(SamplingOptions(temperature=1e-6, seed=0))
    assert {sampler.sample(0, np.array([1, 9, 9], dtype=np.float32)).token for _ in range(40)} == {1, 2}


@pytest.mark.parametrize("temperature", [1e30, 1e39, 1e308])
def test_large_temperatures_are_uniform(temperature):
    sampler = Sampler(SamplingOptions(temperature=temperature, seed=0))
    logits = np.array([1e6, -1e6, 0, -np.inf], dtype=np.float32)
    assert {sampler.sample(0, logits).token for _ in range(60)} == {0, 1, 2}


def test_top_p_of_0_keeps_the_most_likely_token():
    logits = normal(500, 8)
    options = SamplingOptions(temperature=0.7, top_p=0, seed=0)
    kept = kept_by(processors.TopPLogitsWarper(0.0, min_tokens_to_keep=1), logits)
    assert [Sampler(options).sample(0, logits).token] == kept
    assert top_p(logits, 0.0).tolist() == kept


@pytest.mark.parametrize("penalty", [1e-300, 1e-40, 1e40, 1e308])
def test_penalties_beyond_float32(penalty):
    logits = np.array([-1, 0, 2, -np.inf], dtype=np.float32)
    sampler = Sampler(SamplingOptions(repetition_penalty=penalty))
    sampler.observe(0, np.arange(4))
    assert sampler.sample(0, logits).token == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_infinite_and_nan_logits(bad, temperature):
    logits = normal(10, 7)
    logits[3] = bad
    with pytest.raises(EdgekilnError, match=f"logits hold {bad}"):
        Sampler(SamplingOptions(temperature=temperature)).sample(0, logits)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("temperature", -0.5, "temperature must be 0 or more, got -0.5"),
        ("temperature", math.nan, "temperature must be .* got nan"),
        ("temperature", math.inf, "temperature must be .* got inf"),
        ("top_k", -1, r"top_k must be 0 \(off\) or more, got -1"),
        ("top_p", 1.3, r"top_p must be in \[0, 1\], got 1.3"),
        ("top_p", -1e-9, r"top_p must be in \[0, 1\], got -1e-09"),
        ("min_p", 1.5, r"min_p must be in \[0, 1\], got 1.5"),
        ("min_p", math.nan, "min_p must be .* got nan"),
        ("repetition_penalty", 0.0, "repetition_penalty must be more than 0, got 0.0"),
        ("presence_penalty", 2.1, r"presence_penalty must be in \[-2, 2\], got 2.1"),
        ("frequency_penalty", math.nan, r"frequency_penalty must be in \[-2, 2\], got nan"),
        ("logit_bias", {5: 101}, r"logit_bias must be in \[-100, 100\], got 101 for token 5"),
        ("logit_bias", {5: math.nan}, r"logit_bias must be in \[-100, 100\], got nan for token 5"),
        ("logit_bias", {"5": 1}, "logit_bias must be by token id, got '5'"),
        ("logit_bias", {-1: 1}, "logit_bias must be by token id, got -1"),
        ("seed", -1, r"seed must be in \[0, 2\^64\), got -1"),
    ],
)
def test_values_out_of_range(option, value, message):
    with pytest.raises(RequestError, match=message):
        SamplingOptions(**{option: value})


def test_chosen_values_override_the_models_defaults():
    defaults = SamplingDefaults(temperature=0.2, top_p=0.9, repetition_penalty=1.1)
    assert SamplingOptions.from_defaults(defaults, temperature=None, top_p=0.5, seed=3) == SamplingOptions(
        temperature=0.2, top_p=0.5, repetition_penalty=1.1, seed=3
    )
    assert SamplingOptions.from_defaults(SamplingDefaults()) == SamplingOptions()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1.0, 1e300])
@pytest.mark.parametrize("penalty", [1.0, 1e-300, 1e300])
@pytest.mark.parametrize("seed", range(3))
def test_large_logits_give_no_warnings(temperature: float, penalty: float, seed: int) -> None:
    logits = normal(50, seed, 1e38)
    logits[::7] = -np.inf
    sampler = Sampler(SamplingOptions(temperature, top_k=20, top_p=0.9, repetition_penalty=penalty, seed=seed))
    sampler.observe(0, np.arange(10))
    sampled = sampler.sample(0, logits, logprob=True)
    token, logprob = sampled.token, sampled.logprob
    assert math.isfinite(logits[token])
    assert logprob is not None
    assert logprob <= 0


def test_the_bias_is_that_of_transformers():
    logits, bias = normal(300, 9), {4: 2.5, 299: -100.0, 17: 100.0}
    processor = processors.SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})
    expected = processor(torch.zeros((1, 1), dtype=torch.long), torch.tensor(logits)[None])[0].numpy()
    before = logits.copy()
    np.testing.assert_array_equal(LogitBias(bias).apply(logits), expected)
    np.testing.assert_array_equal(logits, before)
    assert Sampler(SamplingOptions(logit_bias=bias)).sample(0, logits).token == 17


def test_a_bias_of_a_token_that_is_not_in_the_vocabulary():
    options = SamplingOptions(logit_bias={300: 1.0, 3: 1.0})
    options.check_vocabulary(301)
    message = "logit_bias has token 300, but the engine has 300 tokens: give ids up to 299"
    with pytest.raises(RequestError, match=message):
        options.check_vocabulary(300)
    with pytest.raises(RequestError, match=message):
        Sampler(options).sample(0, normal(300, 1))


def test_penalties_by_count_are_those_of_openai():
    # https://platform.openai.com/docs/advanced-usage: mu[j] -> mu[j] - c[j] * frequency - float(c[j] > 0) * presence
    answer, logits = [7, 3, 7, 7, 299], normal(300, 10)
    penalty = CountPenalty(0.75, 0.5)
    assert penalty.apply(logits) is logits
    for token in answer:
        penalty.add(token)
    counts = np.bincount(answer, minlength=300)
    expected = logits - counts * 0.5 - (counts > 0) * 0.75
    np.testing.assert_allclose(penalty.apply(logits), expected, rtol=1e-6)


def test_penalties_by_count_are_on_the_answer_only():
    logits = np.array([0, 1, 0.8, 0.1], dtype=np.float32)
    sampler = Sampler(SamplingOptions(presence_penalty=0.5, frequency_penalty=0.1))
    sampler.observe(0, np.array([1, 1, 1]))
    assert [sampler.sample(0, logits).token for _ in range(4)] == [1, 2, 1, 1]


def test_the_steps_are_in_the_order_of_transformers():
    # The bias changes the sign of a logit, and so what the repetition penalty does to it.
    logits = np.array([-1, 0.3, 0.2], dtype=np.float32)
    sampler = Sampler(SamplingOptions(logit_bias={0: 2.0}, repetition_penalty=4.0))
    sampler.observe(0, np.array([0]))
    assert sampler.sample(0, logits).token == 1
    chain = processors.LogitsProcessorList(
        [processors.SequenceBiasLogitsProcessor({(0,): 2.0}), processors.RepetitionPenaltyLogitsProcessor(4.0)]
    )
    assert int(chain(torch.tensor([[0]]), torch.tensor(logits)[None]).argmax()) == 1


@pytest.mark.parametrize("size", [5, 49152])
def test_the_most_likely_tokens_are_those_of_the_raw_logits(size):
    logits = normal(size, 12).round(1)
    logits[3] = -np.inf
    sampler = Sampler(SamplingOptions(temperature=1.0, logit_bias={0: 100.0}, seed=0))
    sampled = sampler.sample(0, logits, logprob=True, top_logprobs=20)
    values = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), -1)
    order = np.argsort(-logits, kind="stable")[: min(20, size - 1)]
    assert [token for token, _ in sampled.top_logprobs] == order.tolist()
    np.testing.assert_allclose([value for _, value in sampled.top_logprobs], values[order], atol=1e-5)
    assert sampled.token == 0
    assert sampled.logprob == pytest.approx(float(values[0]), abs=1e-5)
    assert Sampler(SamplingOptions()).sample(0, logits, top_logprobs=3).logprob is None


def test_options_are_keys():
    # lm-evaluation-harness' requests are grouped by them.
    options = SamplingOptions(logit_bias={3: 1.0})
    assert {options: 1}[SamplingOptions(logit_bias={3: 1.0})] == 1
    assert options != SamplingOptions()
