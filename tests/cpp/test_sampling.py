"""The C++ sampler draws the tokens of the Python sampler, at sizes and temperatures where one rounding error shows."""

import json
import subprocess
from typing import Any

import numpy as np
import pytest

from edgekiln.runtimes.sampling.sampler import Sampler, SamplingOptions
from support.cpp_host import program

TOKENS = 150


def lines(logits: np.ndarray, prompt: list[int], options: dict[str, Any], masks: np.ndarray | None) -> list[str]:
    request = {**options, "prompt": prompt, "size": logits.shape[1]}
    rows = [row.tobytes() for row in logits]
    if masks is not None:
        request["words"] = masks.shape[1]
        rows = [row + mask.tobytes() for row, mask in zip(rows, masks, strict=True)]
    given = json.dumps(request).encode() + b"\n" + b"".join(rows)
    out = subprocess.run([program("edgekiln_sample")], input=given, capture_output=True, check=True).stdout
    return out.decode().splitlines()


def draws(
    logits: np.ndarray, prompt: list[int], options: dict[str, Any], masks: np.ndarray | None = None
) -> list[tuple[int, float]]:
    return [(int(token), float(logprob)) for token, logprob in map(str.split, lines(logits, prompt, options, masks))]


class Masks:
    """A constraint that allows what is in the next row of masks, whatever the tokens are; it is its own state."""

    ended = False

    def __init__(self, masks: np.ndarray) -> None:
        self._masks = iter(masks)

    def start(self) -> "Masks":
        return self

    def allowed(self) -> np.ndarray:
        return next(self._masks)

    def accept(self, token: int) -> None:
        pass


def random_masks(size: int, words: int) -> np.ndarray:
    """Masks of few, some and many tokens; each has one of the first seven."""
    generator = np.random.default_rng(words)
    parts = generator.choice([0.001, 0.1, 0.5, 0.999], TOKENS)[:, None]
    bits = generator.random((TOKENS, words * 32)) < parts
    bits[np.arange(TOKENS), generator.integers(0, 7, TOKENS)] = True
    bits[:, size:] = True  # beyond the vocabulary
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint32)


OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 3.0},
        {"temperature": 0.7, "top_k": 50},
        {"temperature": 1.3, "top_p": 0.9},
        {"temperature": 1.1, "min_p": 0.05},
        {"temperature": 1e-5, "top_p": 0.5},
        {"temperature": 1e-6},
        {"temperature": 1e-300, "top_k": 50, "top_p": 0.5, "min_p": 0.1},
        {"temperature": 1e300},
        {"temperature": 1.2, "top_p": 0.0},
        {"temperature": 1.2, "repetition_penalty": 1e40},
        {"temperature": 1.2, "repetition_penalty": 1e-40},
        {"temperature": 0.9, "top_k": 400, "top_p": 0.97, "min_p": 0.01, "repetition_penalty": 1.3},
        {"repetition_penalty": 0.8},
    ],
    ids=str,
)


@pytest.mark.parametrize("size", [7, 1000, 49152])
@OPTIONS
def test_draws_are_those_of_python(size: int, options: dict[str, Any]) -> None:
    # Rounded to produce ties.
    logits = np.random.default_rng(size).normal(0, 4, (TOKENS, size)).round(1).astype(np.float32)
    chosen = SamplingOptions(**{"seed": 2**63 + 11, **options})
    sampler = Sampler(chosen)
    prompt = [1, 1, size - 1]
    sampler.observe(0, np.array(prompt))
    expected = [sampler.sample(0, scores, logprob=True) for scores in logits]
    found = draws(logits, prompt, vars(chosen))
    assert [token for token, _ in found] == [sampled.token for sampled in expected]
    np.testing.assert_allclose([p for _, p in found], [sampled.logprob for sampled in expected], atol=1e-6)


@pytest.mark.parametrize(("size", "words"), [(7, 1), (1000, 32), (1000, 20), (49152, 1536)])
@OPTIONS
def test_masked_draws_are_those_of_python(size: int, words: int, options: dict[str, Any]) -> None:
    logits = np.random.default_rng(size).normal(0, 4, (TOKENS, size)).round(1).astype(np.float32)
    chosen = SamplingOptions(**{"seed": 2**63 + 11, **options})
    masks = random_masks(size, words)
    sampler = Sampler(chosen, constraint=Masks(masks))
    sampler.observe(0, np.array([1, 1, size - 1]))
    expected = [sampler.sample(0, scores, logprob=True) for scores in logits]
    found = draws(logits, [1, 1, size - 1], vars(chosen), masks)
    assert [token for token, _ in found] == [sampled.token for sampled in expected]
    np.testing.assert_allclose([p for _, p in found], [sampled.logprob for sampled in expected], atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_masks_of_no_token(temperature: float) -> None:
    logits = np.array([[3, -np.inf, 1, 2]] * 3, np.float32)
    masks = np.array([[0b1000], [0b0000], [0b0010]], np.uint32)
    options = vars(SamplingOptions(temperature=temperature, seed=1))
    first, *others = lines(logits, [0], options, masks)
    assert first.startswith("3 ")
    assert others == ["the mask allows no token that the model can choose: allow one, or end the answer"] * 2
