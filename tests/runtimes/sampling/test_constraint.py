"""Constraints in the sampler, compared with a softmax over the tokens that are allowed."""

import numpy as np
import pytest

from edgekiln.errors import EdgekilnError
from edgekiln.runtimes.sampling.constraint import allowed_ids, allows
from edgekiln.runtimes.sampling.sampler import Sampler, SamplingOptions


def bitmask(ids, words: int) -> np.ndarray:
    mask = np.zeros(words, dtype=np.uint32)
    for token in ids:
        mask[token // 32] |= np.uint32(1 << token % 32)
    return mask


class Listed:
    """Allows the tokens of `steps[i]` as token i of an answer; the answer is complete after the last of them."""

    def __init__(self, steps, words: int = 32) -> None:
        self.steps, self.words = steps, words

    def start(self):
        return ListedState(self)


class ListedState:
    def __init__(self, constraint) -> None:
        self.constraint, self.accepted = constraint, []

    def allowed(self):
        return bitmask(self.constraint.steps[len(self.accepted)], self.constraint.words)

    def accept(self, token):
        assert token in self.constraint.steps[len(self.accepted)]
        self.accepted.append(token)

    @property
    def ended(self):
        return len(self.accepted) == len(self.constraint.steps)


def normal(size: int, seed: int, spread: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


@pytest.mark.parametrize("count", [0, 1, 40, 3000, 9000])
def test_the_tokens_of_a_bitmask(count):
    ids = np.sort(np.random.default_rng(count).choice(9984, count, replace=False))
    mask = bitmask(ids.tolist(), 312)
    assert allowed_ids(mask, 10_000).tolist() == ids.tolist()
    assert allowed_ids(mask, 5003).tolist() == ids[ids < 5003].tolist()
    assert [token for token in range(10_050) if allows(mask, token)] == ids.tolist()


def test_greedy_takes_the_best_token_that_is_allowed():
    logits = normal(1024, 1)
    order = np.argsort(-logits)
    steps = [{int(order[0]), 5}, {int(order[3]), int(order[9])}, {7}]
    sampler = Sampler(SamplingOptions(), constraint=Listed(steps))
    sampled = [sampler.sample(0, logits) for _ in steps]
    assert [one.token for one in sampled] == [order[0], order[3], 7]
    assert [one.ended for one in sampled] == [False, False, True]


def test_each_sequence_has_a_state_of_its_own():
    logits = normal(1024, 1)
    sampler = Sampler(SamplingOptions(), 2, Listed([{1}, {2}]))
    assert [sampler.sample(index, logits).token for index in (0, 0, 1, 1)] == [1, 2, 1, 2]


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.3, "top_k": 9}])
def test_draws_are_those_of_the_tokens_that_are_allowed(options):
    logits = normal(1024, 2)
    ids = np.sort(np.random.default_rng(0).choice(1024, 30, replace=False))
    chosen = SamplingOptions(temperature=0.8, seed=3, **options)
    limited = Sampler(chosen, constraint=Listed([set(ids.tolist())] * 50))
    alone = Sampler(chosen)
    few = logits[ids]
    assert [limited.sample(0, logits).token for _ in range(50)] == [ids[alone.sample(0, few).token] for _ in range(50)]


def test_tokens_beyond_the_mask_are_not_allowed():
    # Logits of a vocabulary that is padded beyond the tokenizer's.
    logits = normal(2048, 3)
    logits[2000] = 90
    for temperature in (0, 1):
        sampler = Sampler(SamplingOptions(temperature=temperature, seed=0), constraint=Listed([range(1024)]))
        assert sampler.sample(0, logits).token < 1024


def test_log_probabilities_are_of_the_model():
    logits = normal(1024, 4)
    sampled = Sampler(SamplingOptions(), constraint=Listed([{3}])).sample(0, logits, True, 2)
    assert sampled.logprob == Sampler(SamplingOptions(logit_bias={3: 100})).sample(0, logits, True).logprob
    assert [token for token, _ in sampled.top_logprobs] == np.argsort(-logits)[:2].tolist()


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("allowed", [(), (1,)])
def test_no_token_is_left(temperature, allowed):
    logits = normal(1024, 5)
    logits[1] = -np.inf
    sampler = Sampler(SamplingOptions(temperature=temperature), constraint=Listed([allowed]))
    with pytest.raises(EdgekilnError, match="the grammar allows no token that the model can choose"):
        sampler.sample(0, logits)
