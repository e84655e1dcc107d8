"""Hybrid models of transformers: prefill, decode, rewinds and answers of their engines are those of a new sequence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.runtimes.base import Runtime
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.adapters import check_ragged_states
from support.hybrid_engine import build_hybrid

MODELS = ["lfm2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3_next", "mamba2", "falcon_h1"))]
IDS = np.random.default_rng(0).integers(3, 250, 700)
OPTIONS = GenerateOptions(max_tokens=10, ignore_eos=True)


@pytest.fixture(scope="module", params=MODELS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    return build_hybrid(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def runtime(built: tuple[Path, Any]) -> Runtime:
    return runtimes.open(built[0], threads=1, chunk=64)


@pytest.fixture(scope="module")
def expected(built: tuple[Path, Any]) -> np.ndarray:
    """Logits of transformers for `IDS`, float32[S, V]."""
    with torch.no_grad():
        logits: np.ndarray = built[1](torch.tensor(IDS[None])).logits[0].numpy()
    return logits


def close(actual: np.ndarray, wanted: np.ndarray) -> None:
    assert np.linalg.norm(actual - wanted) < 1e-4 * np.linalg.norm(wanted)


def test_engine_json_has_the_states(built: tuple[Path, Any]) -> None:
    manifest = read_manifest(built[0])
    config = built[1].config
    kinds = getattr(config, "layer_types", None) or []
    assert manifest.kv_cache.states
    if kinds and config.model_type != "falcon_h1":
        assert len(manifest.architecture.kv_heads) == list(kinds).count("full_attention")


def test_a_ragged_batch(runtime: Runtime, expected: np.ndarray) -> None:
    check_ragged_states(runtime, IDS, expected)


def test_answers(built: tuple[Path, Any], runtime: Runtime) -> None:
    tokenizer = Tokenizer.from_engine(built[0], read_manifest(built[0]))
    cache = runtime.new_cache(2)
    prompts = [IDS[:40], IDS[100:300]]
    for _ in range(3):
        found: list[list[int]] = [[], []]
        for token in generate(runtime, tokenizer, prompts, OPTIONS, cache):
            found[token.index].append(token.id)
        for prompt, tokens in zip(prompts, found, strict=True):
            assert tokens == [token.id for token in generate(runtime, tokenizer, [prompt], OPTIONS)]
        # One goes on after its answer, the other one branches off within its prompt.
        prompts = [np.array([*prompts[0], *found[0], 7, 8, 9]), np.array([*prompts[1][:150], 7, 8, 9])]
