"""RoPE of type longrope, whose frequencies change with the length of a sequence, against transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import RequestError, UnsupportedModelError
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.runtimes.base import KernelsChoice, Runtime
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.sources.resolve import resolve
from support.models import VOCABULARY, save_checkpoint

CONTEXT, ORIGINAL = 64, 32
_FACTORS = {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [4.0 + i for i in range(8)]}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": ORIGINAL, **_FACTORS}
IDS = np.random.default_rng(0).integers(3, VOCABULARY, CONTEXT)
Expected = Callable[[int], np.ndarray]


def save(directory: Path, family: str = "phi3", **options: Any) -> Any:
    if family == "phi3":
        options["original_max_position_embeddings"] = ORIGINAL
    if family == "phimoe":
        options |= {"num_local_experts": 4, "num_experts_per_tok": 2, "original_max_position_embeddings": ORIGINAL}
        options["rope_parameters"] = {**LONGROPE, "short_mscale": 1.1, "long_mscale": 1.2}
    options = {"rope_parameters": dict(LONGROPE), "max_position_embeddings": CONTEXT, **options}
    return save_checkpoint(directory, family, num_hidden_layers=2, **options)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Any, Path]]:
    made: dict[tuple[str, str], tuple[Any, Path]] = {}

    def make(family: str, quant: str = "none") -> tuple[Any, Path]:
        if (family, quant) not in made:
            directory = tmp_path_factory.mktemp(family)
            model = save(directory / "model", family)
            build_engine(resolve(str(directory / "model")), directory / "engine", BuildOptions(quant=quant))
            made[family, quant] = model, directory / "engine"
        return made[family, quant]

    return make


def open_engine(engine: Path, kernels: KernelsChoice) -> Runtime:
    return runtimes.open(engine, threads=1, chunk=7, kernels=kernels)


def whole(model: Any, ids: np.ndarray) -> np.ndarray:
    """Logits of the whole forward of transformers, [S, V]."""
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
    return logits


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, atol=3e-6 * np.abs(expected).max())


def test_engine_json_says_where_keys_change(engines: Callable[[str], tuple[Any, Path]], tmp_path: Path) -> None:
    _, engine = engines("phi3")
    manifest = read_manifest(engine)
    assert (manifest.kv_cache.recompute_beyond, manifest.io.sequence_length) == (ORIGINAL, "sequence_length")
    save(tmp_path / "model")
    build_engine(resolve(str(tmp_path / "model")), tmp_path / "engine", BuildOptions(quant="none", max_length=ORIGINAL))
    manifest = read_manifest(tmp_path / "engine")
    assert (manifest.kv_cache.recompute_beyond, manifest.io.sequence_length) == (None, None)


@pytest.mark.parametrize("family", ["phi3", "phimoe", "llama"])
@pytest.mark.parametrize("length", [16, ORIGINAL, ORIGINAL + 1, CONTEXT])
def test_prompts(family: str, length: int, engines: Callable[[str], tuple[Any, Path]], kernels: KernelsChoice) -> None:
    model, engine = engines(family)
    expected = whole(model, IDS[:length])
    runtime = open_engine(engine, kernels)
    close(runtime.score(IDS[:length]), expected)
    # All chunks know the length of the prompt.
    close(runtime.prefill(runtime.new_cache(), 0, IDS[:length]), expected[-1])


def test_steps_give_the_logits_of_transformers_generate(
    engines: Callable[[str], tuple[Any, Path]], kernels: KernelsChoice
) -> None:
    model, engine = engines("phi3")
    start, new = ORIGINAL - 4, 12
    with torch.no_grad():
        answer = model.generate(
            torch.tensor(IDS[None, :start]),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    tokens = answer.sequences[0].numpy()
    runtime = open_engine(engine, kernels)
    cache = runtime.new_cache()
    logits = [runtime.prefill(cache, 0, tokens[:start]).copy()]
    logits += [runtime.step(cache, tokens[i : i + 1])[0].copy() for i in range(start, start + new - 1)]
    for step, expected in enumerate(answer.logits):
        close(logits[step], expected[0].numpy())


def test_sequences_of_a_batch_change_at_their_own_lengths(
    engines: Callable[[str], tuple[Any, Path]], kernels: KernelsChoice
) -> None:
    model, engine = engines("phi3")
    runtime = open_engine(engine, kernels)
    lengths = [ORIGINAL - 3, 5, ORIGINAL + 6]
    cache = runtime.new_cache(len(lengths))
    for sequence, length in enumerate(lengths):
        close(runtime.prefill(cache, sequence, IDS[:length]), whole(model, IDS[:length])[-1])
    for step in range(6):
        logits = runtime.step(cache, IDS[[length + step for length in lengths]]).copy()
        for sequence, length in enumerate(lengths):
            close(logits[sequence], whole(model, IDS[: length + step + 1])[-1])


def test_prompts_and_rewinds_across_the_original_length(
    engines: Callable[[str], tuple[Any, Path]], kernels: KernelsChoice
) -> None:
    model, engine = engines("phi3")
    runtime = open_engine(engine, kernels)
    cache = runtime.new_cache()
    # Length that is kept, length with the next prompt.
    for left, length in [(0, 20), (20, 40), (25, 30), (10, 50), (33, 60), (5, 32), (32, 33), (33, 34), (31, 32)]:
        assert cache.rewind(0, left) == left
        close(runtime.prefill(cache, 0, IDS[left:length]), whole(model, IDS[:length])[-1])
        assert cache.lengths.tolist() == [length]
    cache.rewind(0, 10)
    close(runtime.step(cache, IDS[10:11])[0], whole(model, IDS[:11])[-1])


def test_speculation_changes_no_token(engines: Callable[..., tuple[Any, Path]]) -> None:
    _, engine = engines("llama", "int8")
    runtime = open_engine(engine, "edgekiln")
    assert runtime.max_verify_tokens > 1
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
    prompt = np.tile(IDS[:5], 5)
    answers = []
    for speculate in (False, True):
        options = GenerateOptions(30, SamplingOptions(temperature=0.0), ignore_eos=True, speculate=speculate)
        answers.append([token.id for token in generate(runtime, tokenizer, [prompt], options)])
    assert answers[0] == answers[1]
    cache = runtime.new_cache()
    runtime.prefill(cache, 0, IDS[: ORIGINAL - 1])
    with pytest.raises(RequestError, match="cannot verify tokens on both sides of position 32"):
        runtime.verify(cache, 0, IDS[:3])


@pytest.mark.parametrize("length", [None, ORIGINAL + 1])
def test_other_targets_refuse_lengths_at_which_keys_change(tmp_path: Path, length: int | None) -> None:
    save(tmp_path / "model")
    options = BuildOptions(quant="none", target="ort-cuda", max_length=length)
    message = r"phi3 .*longrope.*beyond 32 tokens: .*--max-length 32, or for ort-cpu$"
    with pytest.raises(UnsupportedModelError, match=message):
        build_engine(resolve(str(tmp_path / "model")), tmp_path / "engine", options)
    assert not (tmp_path / "engine").exists()
