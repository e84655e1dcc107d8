"""libedgekiln keeps and moves window buffers as Python does: same tokens over contexts of many windows."""

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

LENGTH = 2200
IDS = np.random.default_rng(0).integers(3, 250, LENGTH)


@pytest.fixture(scope="module", params=["float32", "int8"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("windows")
    return build(directory, "mistral", "int8", request.param, sliding_window=64, max_position_embeddings=LENGTH)


def test_tokens_are_those_of_python(engine: Path, kernels: KernelsChoice) -> None:
    runtime = runtimes.open(engine, threads=1, kernels=kernels)
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
    # An answer across a move, one after several, one made again, one after a prefix that is no longer held.
    edited = IDS[:1700].copy()
    edited[100] += 1
    prompts = [(IDS[:1070], 0), (IDS[:1900], 1070), (IDS[:1900], 1899), (IDS[:1880], 1879), (edited, 0)]
    options, cache = GenerateOptions(60, ignore_eos=True), runtime.new_cache()
    with Host(engine, threads=1, text=False, kernels=kernels) as host:
        assert host.hello["status"] == OK, host.hello
        for prompt, cached in prompts:
            reply = host.ask(prompt, max_tokens=60, ignore_eos=True)
            assert reply["status"] == OK
            # With the same cache: a token has other rounding errors in a chunk than alone.
            assert reply["ids"] == [token.id for token in generate(runtime, tokenizer, [prompt], options, cache)]
            assert reply["cached_tokens"] == cached
