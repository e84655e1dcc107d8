"""Engines of the text decoders of models with images or audio give the logits of the whole models, for text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekiln import runtimes
from edgekiln.pipeline.assemble import canonical_graph, write_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.progress import StepTimer
from edgekiln.sources.resolve import resolve
from support.models import VOCABULARY
from support.multimodal import COMPOSITES, save_composite, tiny_composite

TOLERANCE = 1e-3  # relative to the norm of the logits
PROMPTS = (23, 14, 19)
CHUNK = 7
DECODE = 4
# One whose decoder has a class in transformers, and one with sections of positions, which has none.
FAST = ("smolvlm", "qwen2_5_vl")
# One of each way to hold a decoder, or to place its tokens. The others are in the sweep of `make families`.
SLOW = (
    "cohere_compass",
    "deepseek_vl_hybrid",
    "ernie4_5_vl_moe",
    "fuyu",
    "gemma3",
    "gemma3n",
    "gemma4",
    "glm4v_moe",
    "granite_speech",
    "hunyuan_vl",
    "idefics3",
    "kimi_k25",
    "lfm2_vl",
    "llama4",
    "llava",
    "mistral3",
    "mllama",
    "phi4_multimodal",
    "qwen3_5",
    "qwen3_vl",
    "qwen3_vl_moe",
)
# Token ids from here on stand for images and audio.
FIRST_SPECIAL = 250
assert FIRST_SPECIAL < VOCABULARY


def _row(kind: str) -> Any:
    marks = [] if kind in FAST else [pytest.mark.slow] if kind in SLOW else [pytest.mark.slow, pytest.mark.sweep]
    return pytest.param(kind, marks=marks)


@pytest.mark.parametrize("model_type", map(_row, COMPOSITES))
def test_engine_matches_the_whole_model(model_type: str, tmp_path: Path) -> None:
    text, fields = COMPOSITES[model_type]
    model = tiny_composite(model_type, text, **fields)
    save_composite(tmp_path / "model", model)
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, FIRST_SPECIAL, prompt + DECODE) for prompt in PROMPTS]
    # In transformers 5.24, the whole of this model fails without images.
    whole = model.language_model if model_type == "llama4" else model
    with torch.no_grad():
        expected = [whole(input_ids=torch.tensor(row)[None], use_cache=False).logits[0].numpy() for row in tokens]
    source = resolve(str(tmp_path / "model"))
    options = BuildOptions(quant="none")
    (tmp_path / "engine").mkdir()
    write_engine(canonical_graph(source, options), source, tmp_path / "engine", options, StepTimer())
    runtime = runtimes.open(tmp_path / "engine", chunk=CHUNK)
    close(runtime.score(tokens[0]), expected[0])
    cache = runtime.new_cache(len(PROMPTS))
    for row, (ids, prompt) in enumerate(zip(tokens, PROMPTS, strict=True)):
        close(runtime.prefill(cache, row, ids[:prompt]), expected[row][prompt - 1])
    for step in range(DECODE):
        new = np.array([ids[prompt + step] for ids, prompt in zip(tokens, PROMPTS, strict=True)])
        close(runtime.step(cache, new), np.stack([expected[row][prompt + step] for row, prompt in enumerate(PROMPTS)]))


def close(logits: np.ndarray, expected: np.ndarray) -> None:
    assert np.linalg.norm(logits - expected) < TOLERANCE * np.linalg.norm(expected)
