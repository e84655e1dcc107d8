"""Estimates of builds against builds: sizes of weights, and what follows from options."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekiln.calib.data.options import DataOptions
from edgekiln.calib.limits import Limits
from edgekiln.calib.presets import UNCALIBRATED
from edgekiln.engine.directory import WEIGHTS_FILE
from edgekiln.errors import RequestError
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.estimate import estimate
from edgekiln.pipeline.options import BuildOptions
from edgekiln.runtimes.cache_bytes import sequence_bytes
from edgekiln.sources.base import ModelSource
from edgekiln.sources.resolve import resolve
from support.models import save_checkpoint

# Large enough that the pages of weights.bin do not decide.
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    directory = tmp_path_factory.mktemp("checkpoint") / "wide"
    save_checkpoint(directory, "llama", **WIDE)
    return resolve(str(directory))


@pytest.mark.parametrize("target", ["ort-cpu", "ort-cuda"])
@pytest.mark.parametrize("quant", ["none", "int4", "int8"])
def test_weights_have_the_estimated_size(source: ModelSource, tmp_path: Path, quant: str, target: str) -> None:
    recipe = UNCALIBRATED if quant == "int8" else None
    options = BuildOptions(quant=quant, recipe=recipe, target=target)
    found = estimate(source, options)
    manifest = build_engine(source, tmp_path / "engine", options)
    built = (tmp_path / "engine" / WEIGHTS_FILE).stat().st_size
    assert found.weights_bytes == pytest.approx(built, rel=0.05)
    assert found.cache_bytes_per_token == sequence_bytes(manifest, 1)
    assert found.max_length == manifest.architecture.max_length
    assert found.parameters == manifest.architecture.parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", WIDE | {"tie_word_embeddings": True}),
        ("gpt2", {"n_embd": 256, "n_layer": 1}),
        ("mixtral", WIDE),
    ],
    ids=["tied", "transposed", "experts"],
)
@pytest.mark.parametrize("quant", ["none", "int4"])
def test_other_models(tmp_path: Path, family: str, config: dict[str, Any], quant: str) -> None:
    save_checkpoint(tmp_path / "model", family, **config)
    source, options = resolve(str(tmp_path / "model")), BuildOptions(quant=quant)
    build_engine(source, tmp_path / "engine", options)
    built = (tmp_path / "engine" / WEIGHTS_FILE).stat().st_size
    assert estimate(source, options).weights_bytes == pytest.approx(built, rel=0.08)


def test_memory_and_time_follow_the_options(source: ModelSource) -> None:
    rounded, calibrated = (estimate(source, BuildOptions(quant=quant)) for quant in ("int4", "int8"))
    assert calibrated.peak_bytes > rounded.peak_bytes
    assert calibrated.seconds > rounded.seconds
    fewer = estimate(source, BuildOptions(data=DataOptions(samples=1, length=8)))
    assert fewer.seconds < calibrated.seconds
    promoted = estimate(source, BuildOptions(quant="int4", limits=Limits(max_kl=0.1)))
    assert promoted.seconds > rounded.seconds
    assert any("promoted" in note for note in promoted.notes)
    eight = estimate(source, BuildOptions(quant="int4", kv="int8"))
    assert eight.cache_bytes_per_token * 4 == rounded.cache_bytes_per_token


def test_a_plan_holds_the_weights_again(source: ModelSource) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = BuildOptions(quant="int4", target="trt-rtx")
    found = estimate(source, options)
    assert found.plan_bytes == found.weights_bytes
    stripped = estimate(
        source, replace(options, tensorrt=replace(options.tensorrt, strip_weights=True, capabilities=((8, 6),)))
    )
    assert stripped.plan_bytes == 0


def test_options_that_do_not_suit_the_model(source: ModelSource) -> None:
    with pytest.raises(RequestError, match="over the model's context"):
        estimate(source, BuildOptions(max_length=1 << 20))
