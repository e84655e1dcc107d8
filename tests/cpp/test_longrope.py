"""libedgekiln computes keys again where rotary frequencies change, as Python does."""

from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.cpp_host import OK, Host
from support.engines import build

ORIGINAL = 300
FACTORS = {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [4.0 + i for i in range(8)]}
ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": ORIGINAL, **FACTORS}
IDS = np.random.default_rng(0).integers(3, 250, 500)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("longrope")
    return build(directory, "llama", "int8", "float32", rope_parameters=ROPE, max_position_embeddings=600)


def test_tokens_are_those_of_python(engine: Path, kernels: KernelsChoice) -> None:
    runtime = runtimes.open(engine, threads=1, kernels=kernels)
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
    # Answers across the length, by steps, drafts and prompts; and back.
    repeated = np.tile(IDS[:40], 7)
    prompts = [IDS[:280], IDS[:400], IDS[:100], repeated, IDS[:290], IDS[:301]]
    options, cache = GenerateOptions(40, ignore_eos=True), runtime.new_cache()
    with Host(engine, threads=1, text=False, kernels=kernels) as host:
        assert host.hello["status"] == OK, host.hello
        for prompt in prompts:
            reply = host.ask(prompt, max_tokens=40, ignore_eos=True)
            assert reply["status"] == OK
            assert reply["ids"] == [token.id for token in generate(runtime, tokenizer, [prompt], options, cache)]
