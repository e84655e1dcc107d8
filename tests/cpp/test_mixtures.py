"""Engines of mixtures of experts answer alike in Python and in C++, with edgekiln's kernels and without."""

from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.engine.reports import read_quantization
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.sources.resolve import resolve
from support.cpp_host import Host
from support.engines import build
from support.quantized_experts import write_gpt_oss

# SwiGLU; clamped with biases; inputs weighted by the router; projections of attention that are experts.
MODELS = ["qwen3_moe", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt_oss", "llama4_text", "jetmoe"))]
PROMPTS = [np.random.default_rng(seed).integers(3, 250, length) for seed, length in enumerate((70, 9, 1))]
OPTIONS = GenerateOptions(16, ignore_eos=True)


@pytest.fixture(scope="module", params=["int4", pytest.param("int8", marks=pytest.mark.slow)])
def quant(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=MODELS)
def engine(request: pytest.FixtureRequest, quant: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp(request.param), request.param, quant)


def answers(engine: Path, kernels: KernelsChoice) -> list[list[int]]:
    runtime = runtimes.open(engine, threads=1, kernels=kernels)
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine))
    return [[token.id for token in generate(runtime, tokenizer, [prompt], OPTIONS)] for prompt in PROMPTS]


@pytest.mark.parametrize("kernels", ["edgekiln", "onnxruntime"])
def test_tokens_of_cpp_are_those_of_python(engine: Path, kernels: KernelsChoice) -> None:
    with Host(engine, threads=1, kernels=kernels) as host:
        for prompt, expected in zip(PROMPTS, answers(engine, kernels), strict=True):
            assert host.ask(prompt, max_tokens=16, ignore_eos=True, reset=True)["ids"] == expected


@pytest.mark.parametrize("kernels", ["edgekiln", "onnxruntime"])
def test_codes_of_codebooks_in_cpp(tmp_path: Path, kernels: KernelsChoice) -> None:
    write_gpt_oss(tmp_path / "model")
    build_engine(resolve(str(tmp_path / "model")), tmp_path / "engine", BuildOptions(quant="int4"))
    layers = read_quantization(tmp_path / "engine").layers
    assert sum(layer.codebook == "e2m1" for layer in layers.values()) == 2 * sum("o_proj" in name for name in layers)
    used = runtimes.open(tmp_path / "engine", threads=1, kernels=kernels).kernels
    assert (used == "onnxruntime") == (kernels == "onnxruntime")  # biased projections of attention included
    test_tokens_of_cpp_are_those_of_python(tmp_path / "engine", kernels)
