"""The C++ sampler draws the tokens of the Python sampler, at sizes and temperatures where one rounding error shows."""

import json
import subprocess
from typing import Any

import numpy as np
import pytest

from edgekiln.runtimes.sampling.sampler import Sampler, SamplingOptions
from support.cpp_host import program

TOKENS = 150


def draws(logits: np.ndarray, prompt: list[int], options: dict[str, Any]) -> list[tuple[int, float]]:
    request = {**options, "prompt": prompt, "size": logits.shape[1]}
    given = json.dumps(request).encode() + b"\n" + logits.tobytes()
    out = subprocess.run([program("edgekiln_sample")], input=given, capture_output=True, check=True).stdout
    return [(int(token), float(logprob)) for token, logprob in map(str.split, out.decode().splitlines())]


@pytest.mark.parametrize("size", [7, 1000, 49152])
@pytest.mark.parametrize(
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
