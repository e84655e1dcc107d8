"""RoPE with frequencies that depend on the length: exact where they are constant, refused by name elsewhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekiln import runtimes
from edgekiln.errors import EdgekilnError, RequestError, UnsupportedModelError
from edgekiln.export.tracing.meta_model import build_meta_model
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from support.models import VOCABULARY, save_checkpoint, tiny_config

CONTEXT, ORIGINAL = 64, 32
_FACTORS = {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [4.0 + i for i in range(8)]}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": ORIGINAL, **_FACTORS}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}


def checkpoint(directory: Path, family: str, rope: dict[str, Any]) -> Any:
    # Phi-3 has a field for the original length, and transformers writes it into the dictionary that it is given.
    options = {"original_max_position_embeddings": ORIGINAL} if family == "phi3" else {}
    return save_checkpoint(
        directory,
        family,
        rope_parameters=dict(rope),
        num_hidden_layers=1,
        max_position_embeddings=CONTEXT,
        **options,
    )


@pytest.mark.parametrize(
    ("family", "rope", "length"),
    [("phi3", LONGROPE, ORIGINAL), ("llama", LONGROPE, ORIGINAL), ("llama", DYNAMIC, CONTEXT)],
    ids=["phi3-longrope", "llama-longrope", "llama-dynamic"],
)
def test_logits_are_those_of_transformers(tmp_path: Path, family: str, rope: dict[str, Any], length: int) -> None:
    model = checkpoint(tmp_path / "model", family, rope)
    engine = tmp_path / "engine"
    build_engine(resolve(str(tmp_path / "model")), engine, BuildOptions(quant="none", max_length=length))
    ids = np.random.default_rng(0).integers(0, VOCABULARY, length)
    with torch.no_grad():
        expected = model(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
    np.testing.assert_allclose(runtimes.open(engine).score(ids), expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("family", ["phi3", "llama"])
@pytest.mark.parametrize("length", [None, ORIGINAL + 1])
def test_a_length_at_which_longrope_changes_is_refused(tmp_path: Path, family: str, length: int | None) -> None:
    checkpoint(tmp_path / "model", family, LONGROPE)
    with pytest.raises(UnsupportedModelError, match=rf"{family} .*longrope.*beyond 32 tokens: .*--max-length 32$"):
        build_engine(
            resolve(str(tmp_path / "model")), tmp_path / "engine", BuildOptions(quant="none", max_length=length)
        )
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    ("context", "length", "message"),
    [
        (10**9, None, "has a context of 1000000000 tokens.*give a --max-length, such as 1048576"),
        (10**9, 10**8, "max length 100000000 is over 16777216, the most that engines hold: lower --max-length"),
        (256, 257, "over the model's context of 256: lower --max-length"),
    ],
)
def test_a_very_long_context_needs_a_length(tmp_path: Path, context: int, length: int | None, message: str) -> None:
    save_checkpoint(tmp_path / "model", "llama", num_hidden_layers=1, max_position_embeddings=context)
    with pytest.raises(RequestError, match=message):
        build_engine(
            resolve(str(tmp_path / "model")), tmp_path / "engine", BuildOptions(quant="none", max_length=length)
        )


def test_longrope_of_a_family_with_its_own_code_is_refused_at_any_length(tmp_path: Path) -> None:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "original_max_position_embeddings": ORIGINAL}
    rope = {**LONGROPE, "short_mscale": 1.1, "long_mscale": 1.2}
    save_checkpoint(tmp_path / "model", "phimoe", rope_parameters=rope, num_hidden_layers=1, **experts)
    for length in (ORIGINAL, None):
        with pytest.raises(UnsupportedModelError, match="phimoe scales positions of rope type longrope"):
            build_engine(
                resolve(str(tmp_path / "model")), tmp_path / "engine", BuildOptions(quant="none", max_length=length)
            )


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "spiral", "rope_theta": 1e4}, "llama has positions of rope type 'spiral', which transformers"),
        ({"rope_type": "default", "rope_theta": 0.0}, "llama has rotary frequencies that are not finite"),
    ],
)
def test_rope_that_transformers_cannot_compute_is_named(rope: dict[str, Any], message: str) -> None:
    config = tiny_config("llama", num_hidden_layers=1)
    config.rope_parameters = rope
    with pytest.raises(EdgekilnError, match=message):
        build_meta_model(config)
