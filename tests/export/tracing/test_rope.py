"""RoPE with frequencies that depend on the length: exact where they are constant, refused by name elsewhere."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgekiln import runtimes
from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.export.tracing.meta_model import build_meta_model
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.runtimes.ort.cpu import OrtCpuRuntime
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


_SCALED = {"rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": ORIGINAL}
SCALED: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 1e4},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    "yarn": {"rope_type": "yarn", **_SCALED},
    "yarn-attention-factor": {"rope_type": "yarn", **_SCALED, "attention_factor": 1.3, "beta_fast": 8, "beta_slow": 2},
    "yarn-mscale": {"rope_type": "yarn", **_SCALED, "mscale": 0.7, "mscale_all_dim": 1.2},
    "yarn-not-truncated": {"rope_type": "yarn", **_SCALED, "truncate": False},
    "llama3": {"rope_type": "llama3", **_SCALED, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "proportional": {"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
}


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """The model of a kind of SCALED, and its engine."""

    @functools.cache
    def make(kind: str) -> tuple[Any, Path]:
        directory = tmp_path_factory.mktemp(kind)
        model = checkpoint(directory / "model", "llama", SCALED[kind])
        build_engine(resolve(str(directory / "model")), directory / "engine", BuildOptions(quant="none"))
        return model, directory / "engine"

    return make


@pytest.mark.parametrize("kind", SCALED)
def test_scaled_frequencies_below_at_and_across_the_original_length(
    kind: str, scaled: Callable[[str], tuple[Any, Path]], kernels: KernelsChoice
) -> None:
    model, engine = scaled(kind)
    graph = onnx.load(engine / "generate.onnx", load_external_data=False).graph
    assert sum("RotaryAttention" in node.op_type for node in graph.node) == 1
    runtime = runtimes.open(engine, kernels=kernels)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, CONTEXT)
    with torch.no_grad():
        expected = model(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
    tolerance = 2e-6 * np.abs(expected).max()
    np.testing.assert_allclose(runtime.score(ids), expected, atol=tolerance)
    cache = runtime.new_cache(2)
    # A prompt beyond the original length, and one before it that steps take across it.
    lengths = [ORIGINAL + 8, ORIGINAL - 2]
    for sequence, length in enumerate(lengths):
        np.testing.assert_allclose(runtime.prefill(cache, sequence, ids[:length]), expected[length - 1], atol=tolerance)
    for step in range(8):
        positions = [length + step for length in lengths]
        np.testing.assert_allclose(runtime.step(cache, ids[positions]), expected[positions], atol=tolerance)


WINDOW = 16


@pytest.fixture(scope="module", params=["default", "yarn"])
def late(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model with window buffers and a long context, and its engine."""
    directory = tmp_path_factory.mktemp("late")
    rope = {**SCALED[request.param], "rope_theta": 1e6}
    config = {"sliding_window": WINDOW, "max_position_embeddings": 1 << 20, "num_hidden_layers": 2}
    model = save_checkpoint(directory / "model", "mistral", rope_parameters=rope, **config)
    build_engine(resolve(str(directory / "model")), directory / "engine", BuildOptions(quant="none"))
    return model, directory / "engine"


@pytest.mark.parametrize("position", [200_000 // 64 * 64, (1 << 20) - 64])
def test_late_positions_have_the_angles_of_transformers(
    position: int, late: tuple[Any, Path], kernels: KernelsChoice
) -> None:
    """Layers with window buffers hold the last tokens only, so a run may begin at any position."""
    (model, engine), length = late, 40
    assert (engine / "weights.bin").stat().st_size < 1 << 20, "no table of all positions"
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, length))
    position_ids = np.arange(position, position + length)[None]
    with torch.no_grad():
        expected = model(torch.tensor(ids), position_ids=torch.tensor(position_ids), use_cache=False).logits.numpy()
        early = model(torch.tensor(ids), use_cache=False).logits.numpy()
    runtime = runtimes.open(engine, kernels=kernels)
    assert isinstance(runtime, OrtCpuRuntime)
    graph = runtime._score
    feeds = {"input_ids": ids, "position_ids": position_ids, f"window_start.{WINDOW}": np.array([position])}
    for value in graph.get_inputs():
        if value.name.startswith("past."):
            feeds[value.name] = np.zeros((1, value.shape[1], 64, value.shape[3]), np.float32)
    result = graph.run(["logits"], feeds)[0]
    error = np.abs(result - expected).max()
    assert error < 5e-6 * np.abs(expected).max()
    # Angles of late positions are rounded, to the same float32 as in transformers: other roundings would differ more.
    assert np.abs(early - expected).max() > 20 * error


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
