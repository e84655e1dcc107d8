"""Mutated engine.json: Python and C++ generate the same token, or refuse it in the same sentence."""

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest

from edgekiln.api import Engine
from edgekiln.errors import EdgekilnError
from support.cpp_host import Engines
from support.fuzzing import Fuzzer
from support.mutations import mutate_json

pytestmark = pytest.mark.slow

FIELDS: dict[str, Any] = {
    "schema_version": [1, 4, 6, "5", 5.0],
    "target": ["ort-cuda", "tpu"],
    "io": [
        {"logits": "score"},
        {"past_key": "past.key"},
        {"past_state": "state"},
        {"total_length": "length", "logits_to_keep": "keep"},
    ],
    "kv_cache": [
        *({"layout": layout, "dtype": "float32"} for layout in ("growing", "in-place", "paged")),
        *(
            {"layout": "shared-buffer", "dtype": "float32", "windows": windows}
            for windows in ([], [8], [0] * 4, [8] * 4)
        ),
        *(
            {"layout": "shared-buffer", "dtype": "float32", "states": states}
            for states in (
                [],
                [{}],
                [{"shape": [4], "dtype": "float32"}, 7],
                [{"shape": [2**30] * 3, "dtype": "float16"}],
            )
        ),
    ],
    "graphs": [{}, {"generate": "engine.json"}, {"generate": "weights.bin"}, {"score": "score.onnx"}],
    "tensorrt": [{}, {"library": "tensorrt", "version": "10", "compute_capabilities": ["8.9"], "max_batch": 1}],
    "sampling": [{"temperature": 1e-6, "top_p": 0.0}, {"repetition_penalty": 1e30}, {"min_p": 1}, {"top_k": 2**40}],
    "special_tokens": [{"bos": -1}, {"eos": [10**6]}, {"template_variables": {"bos_token": 1}}],
    "files": [{}, {"../engine.json": "0"}],
}


def test_engine_json(fuzzer: Fuzzer, tiny_engine: Path, tmp_path: Path) -> None:
    engine = shutil.copytree(tiny_engine, tmp_path / "engine")
    path = engine / "engine.json"
    document = json.loads(path.read_text())
    with Engines() as cpp:

        def case(random: Random) -> None:
            path.write_bytes(mutate_json(document, random, FIELDS))
            reply = cpp.first_token(engine)
            try:
                opened = Engine.open(engine, threads=1)
                ids = [token.id for token in opened.generate("a", max_tokens=1, seed=1)]
            except EdgekilnError as error:
                if str(error) != reply.get("error"):
                    raise AssertionError(f"Python: {error}\nC++: {reply.get('error', 'takes it')}") from None
                raise
            if ids != reply.get("ids"):
                raise AssertionError(f"Python: {ids}\nC++: {reply}")

        fuzzer.run(case)
