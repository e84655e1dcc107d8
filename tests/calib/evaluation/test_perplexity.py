"""`perplexity` against torch's own losses."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekiln.calib.evaluation.perplexity import Evaluation, Scorer, perplexity
from edgekiln.errors import EdgekilnError, RequestError

VOCABULARY = 11


def bigram(seed: int, spread: float = 2.0) -> Scorer:
    """A scorer whose logits depend on the token and its position, so that wrong windows and shifts are noticed."""
    table = np.random.default_rng(seed).normal(0, spread, (VOCABULARY, VOCABULARY)).astype(np.float32)

    def score(ids: np.ndarray) -> np.ndarray:
        return table[ids] * np.linspace(1, 2, len(ids), dtype=np.float32)[:, None]

    return score


def in_torch(score: Scorer, reference: Scorer, tokens: np.ndarray, window: int) -> Evaluation:
    losses, reference_losses, divergences, same = [], [], [], []
    for ids in torch.from_numpy(tokens).split(window):
        actual = torch.from_numpy(score(ids.numpy())).double()[:-1].log_softmax(-1)
        expected = torch.from_numpy(reference(ids.numpy())).double()[:-1].log_softmax(-1)
        losses.append(torch.nn.functional.nll_loss(actual, ids[1:], reduction="none"))
        reference_losses.append(torch.nn.functional.nll_loss(expected, ids[1:], reduction="none"))
        divergences.append(torch.nn.functional.kl_div(actual, expected, reduction="none", log_target=True).sum(-1))
        same.append(actual.argmax(-1) == expected.argmax(-1))
    return Evaluation(
        perplexity=torch.cat(losses).mean().exp().item(),
        tokens=len(torch.cat(losses)),
        kl_divergence=torch.cat(divergences).mean().item(),
        same_top=torch.cat(same).double().mean().item(),
        reference_perplexity=torch.cat(reference_losses).mean().exp().item(),
    )


@settings(deadline=None)
@given(seed=st.integers(0, 1000), length=st.integers(2, 150), window=st.integers(2, 80))
def test_results_match_torch(seed: int, length: int, window: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, length)
    score, reference = bigram(seed), bigram(seed + 1)
    ours = perplexity(score, tokens, window, reference=reference)
    theirs = in_torch(score, reference, tokens, window)
    assert ours.tokens == theirs.tokens
    assert ours.perplexity == pytest.approx(theirs.perplexity, rel=1e-6)
    assert ours.kl_divergence == pytest.approx(theirs.kl_divergence, rel=1e-6)
    assert ours.same_top == pytest.approx(theirs.same_top)
    assert ours.reference_perplexity == pytest.approx(theirs.reference_perplexity, rel=1e-6)


def test_uniform_predictions_have_the_perplexity_of_the_vocabulary_size() -> None:
    result = perplexity(lambda ids: np.full((len(ids), 50), 3.0, np.float32), np.arange(40), window=16)
    assert result.perplexity == pytest.approx(50)
    assert result == Evaluation(result.perplexity, 15 + 15 + 7, None, None, None)


def test_a_model_does_not_diverge_from_itself() -> None:
    result = perplexity(bigram(1), np.arange(40) % VOCABULARY, reference=bigram(1))
    assert result.kl_divergence == pytest.approx(0, abs=1e-12)
    assert result.same_top == 1.0


def test_logits_far_from_zero_keep_their_precision() -> None:
    tokens = np.arange(60) % VOCABULARY
    score = bigram(2, spread=1000.0)
    exact = in_torch(score, score, tokens, 512)
    assert exact.perplexity == math.inf or exact.perplexity > 1e100
    assert perplexity(score, tokens).perplexity == exact.perplexity


def test_a_forbidden_token_of_the_reference_adds_nothing() -> None:
    def masked(ids: np.ndarray) -> np.ndarray:
        logits = np.zeros((len(ids), 4), np.float32)
        logits[:, 3] = -np.inf
        return logits

    tokens = np.array([0, 1, 2, 1, 0])
    uniform = perplexity(lambda ids: np.zeros((len(ids), 4), np.float32), tokens, reference=masked)
    assert uniform.kl_divergence == pytest.approx(math.log(4 / 3))
    assert perplexity(masked, tokens, reference=masked).kl_divergence == pytest.approx(0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_logits_that_are_not_finite(value: float) -> None:
    def broken(ids: np.ndarray) -> np.ndarray:
        return np.full((len(ids), 4), value, np.float32)

    with pytest.raises(EdgekilnError, match="the model's logits hold NaN or infinity"):
        perplexity(broken, np.array([0, 1, 2]))


@pytest.mark.filterwarnings("error")
def test_logits_as_large_as_float32_gives() -> None:
    def large(ids: np.ndarray) -> np.ndarray:
        return np.array([[3e38, -3e38, 1.0, 0.0]], np.float32).repeat(len(ids), 0)

    assert perplexity(large, np.zeros(3, np.int64), reference=large).kl_divergence == 0
    assert perplexity(large, np.ones(3, np.int64)).perplexity == math.inf


def test_max_tokens_cuts_the_text() -> None:
    tokens = np.arange(100) % VOCABULARY
    assert perplexity(bigram(3), tokens, 16, max_tokens=33) == perplexity(bigram(3), tokens[:33], 16)
    assert perplexity(bigram(3), tokens, 16, max_tokens=33).tokens == 30


def test_progress_ends_at_one() -> None:
    shares: list[float] = []
    perplexity(bigram(3), np.arange(100) % VOCABULARY, 16, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) == 7


@pytest.mark.parametrize(
    ("length", "window", "limit", "said"),
    [(0, 512, None, "got 0"), (1, 512, None, "got 1"), (10, 1, None, "got 1"), (10, 512, -3, "got -3")],
)
def test_nothing_to_predict_is_refused(length: int, window: int, limit: int | None, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        perplexity(bigram(0), np.zeros(length, np.int64), window, max_tokens=limit)


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(RequestError, match="token 11"):
        perplexity(lambda ids: np.zeros((len(ids), VOCABULARY), np.float32), np.array([1, VOCABULARY, 2]))


def test_a_reference_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(RequestError, match="20 tokens, the engine 11"):
        perplexity(bigram(0), np.arange(5), reference=lambda ids: np.zeros((len(ids), 20), np.float32))


def test_logits_of_the_last_position_only_are_refused() -> None:
    with pytest.raises(RequestError, match=r"\(1, 11\)"):
        perplexity(lambda ids: bigram(0)(ids)[-1:], np.arange(5))


def test_nan_is_an_error() -> None:
    with pytest.raises(EdgekilnError, match="NaN"):
        perplexity(lambda ids: np.full((len(ids), VOCABULARY), np.nan, np.float32), np.arange(5))


def test_importing_it_does_not_import_torch() -> None:
    modules = "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    code = f"import edgekiln.calib.evaluation.perplexity, sys; {modules}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
