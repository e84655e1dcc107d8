"""Quantized engines of each kind of state answer alike with edgekiln's kernels and without, in Python and in C++."""

import re
from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.engine.reports import read_quantization
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.cpp_host import Host
from support.hybrid_engine import build_hybrid

# Short convolutions; scans of Mamba and Mamba-2; the gated delta rule; WKV of RWKV; attention beside Mamba-2.
MODELS = [
    "lfm2",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("mamba", "mamba2", "qwen3_5_text", "rwkv", "falcon_h1")),
]
PROMPTS = [np.random.default_rng(seed).integers(3, 250, length) for seed, length in enumerate((70, 9, 33, 1))]
COUNT = 24
# Of the spread of the logits: two sets of kernels round activations in their own ways, which decides between tokens
# that are as likely. For prompts of 64 tokens and more edgekiln also rounds 4-bit weights to int8.
TIE = {"int8": 0.1, "int4": 0.25}


@pytest.fixture(scope="module", params=["int8", "int4"])
def quant(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=MODELS)
def engine(request: pytest.FixtureRequest, quant: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_hybrid(tmp_path_factory.mktemp(request.param), request.param, quant)[0]


def answers(engine: Path, kernels: KernelsChoice) -> list[list[int]]:
    runtime = runtimes.open(engine, threads=1, kernels=kernels)
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine))
    options = GenerateOptions(COUNT, ignore_eos=True)
    return [[token.id for token in generate(runtime, tokenizer, [prompt], options)] for prompt in PROMPTS]


def test_weights_are_quantized(engine: Path, quant: str) -> None:
    report = read_quantization(engine)
    assert report.scheme == quant
    # Embeddings and LM heads have 8 bits in both.
    assert {layer.bits for name, layer in report.layers.items() if re.search(r"\.\d+\.", name)} == {int(quant[-1])}
    # The float32 weights left are small.
    assert (engine / "weights.bin").stat().st_size < 2.2 * read_manifest(engine).architecture.parameters


@pytest.mark.parametrize("kernels", ["edgekiln", "onnxruntime"])
def test_tokens_of_cpp_are_those_of_python(engine: Path, kernels: KernelsChoice) -> None:
    with Host(engine, threads=1, kernels=kernels) as host:
        for prompt, expected in zip(PROMPTS, answers(engine, kernels), strict=True):
            assert host.ask(prompt, max_tokens=COUNT, ignore_eos=True, reset=True)["ids"] == expected


def test_tokens_are_the_same_without_the_kernels(engine: Path, quant: str) -> None:
    runtime = runtimes.open(engine, threads=1, kernels="onnxruntime")
    for prompt, tokens in zip(PROMPTS, answers(engine, "edgekiln"), strict=True):
        logits = runtime.score(np.array([*prompt, *tokens]))[len(prompt) - 1 : -1]
        chosen = logits[np.arange(COUNT), tokens]
        assert (logits.max(axis=1) - chosen <= TIE[quant] * logits.std(axis=1)).all()
