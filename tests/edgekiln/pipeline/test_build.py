"""Builds: quantized engines against the numpy reference, manifest and reports, and clean-up after failures."""

import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgekiln import runtimes
from edgekiln.calib.quantization_plan import plan_quantization
from edgekiln.engine.manifest import QuantizationRecipe, read_manifest
from edgekiln.errors import RequestError, SourceError
from edgekiln.export.passes.ort.two_pass_lm_head import MARGIN
from edgekiln.pipeline import assemble
from edgekiln.pipeline.assemble import canonical_graph, write_engine
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.progress import StepTimer
from edgekiln.sources.base import ModelSource
from edgekiln.sources.resolve import resolve
from families.tiny import tiny_model
from support.graphs import run_reference
from support.models import VOCABULARY, save_checkpoint

SMALL = {"num_hidden_layers": 2}


def checkpoint(directory: Path, family: str = "llama", **options: Any) -> ModelSource:
    save_checkpoint(directory, family, **{**SMALL, **options})
    return resolve(str(directory))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return checkpoint(tmp_path_factory.mktemp("build") / "tiny")


def json_files(engine: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """quantization.json and report.json."""
    quantization, report = (json.loads((engine / f"{name}.json").read_text()) for name in ("quantization", "report"))
    return quantization, report


def relative_error(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        pytest.param("qwen2", {}, marks=pytest.mark.slow),
        pytest.param("gemma2", {}, marks=pytest.mark.slow),
        ("gpt2", {"n_layer": 2}),
    ],
    ids=["llama", "llama tied", "qwen2", "gemma2", "gpt2"],
)
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_quantized_engine_matches_the_canonical_graph(
    tmp_path: Path, family: str, options: dict[str, Any], quant: str
) -> None:
    if family == "gpt2":
        save_checkpoint(tmp_path / "model", family, **options)
        source = resolve(str(tmp_path / "model"))
    else:
        source = checkpoint(tmp_path / "model", family, **options)
    choices = BuildOptions(quant=quant)
    canonical = canonical_graph(source, choices)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 20)
    past = {
        v.name: np.zeros((1, v.shape[1], 0, v.shape[3]), np.float32)  # type: ignore[index, call-overload]
        for v in canonical.graph.graph.inputs[2:]
    }
    expected = run_reference(canonical.graph, {"input_ids": ids[None], "position_ids": np.arange(20)[None], **past})  # type: ignore[dict-item]
    engine = tmp_path / "engine"
    engine.mkdir()
    write_engine(canonical, source, engine, choices, StepTimer())
    runtime = runtimes.open(engine, chunk=8)
    cache = runtime.new_cache(1)
    runtime.prefill(cache, 0, ids[:-1])
    # Kernels quantize activations to 8 bits at different points of the graph, hence the tolerance. A wrong scale, zero
    # point or order of output channels gives errors above 0.5.
    last = expected[0][0, -1]
    assert relative_error(runtime.score(ids)[-1], last) < 0.06
    # In a decode step, the two-pass LM head computes logits far below the maximum with 4-bit weights.
    near = last > last.max() - MARGIN / 2
    step = runtime.step(cache, ids[-1:])[0]
    assert relative_error(np.where(near, step, last), last) < 0.06
    assert relative_error(step, last) < 0.15


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_quantization_json(source: ModelSource, tmp_path: Path, quant: str) -> None:
    engine = tmp_path / "engine"
    manifest = build_engine(source, engine, BuildOptions(quant=quant))
    recipe, _ = json_files(engine)
    assert (recipe["scheme"], recipe["group_size"]) == (quant, 32 if quant == "int4" else None)
    layers = recipe["layers"]
    linear = [name for name in layers if "_proj" in name]
    assert len(linear) == 2 * 7
    assert set(layers) - set(linear) == {"model.embed_tokens", "lm_head"}
    for name, layer in layers.items():
        embedding = name not in linear
        bits, group = (8, 32) if embedding else ((4, 32) if quant == "int4" else (8, None))
        assert (layer["bits"], layer["group_size"]) == (bits, group)
        assert layer["activation"] == ("int8-per-token" if quant == "int8" and not embedding else "none")
        assert 0 < layer["scale_min"] <= layer["scale_max"]
        # The error of rounding in a range of some 3 standard deviations.
        assert layer["relative_error"] < (0.02 if bits == 4 else 1e-3)
        # With random inputs the output error equals the weight error, plus that of quantized activations.
        if layer["output_error"] is not None:
            assert 0.3 < layer["output_error"] / layer["relative_error"] < 10
        assert (layer["output_error"] is not None) == (quant == "int8" and not embedding)
    assert read_manifest(engine) == manifest
    assert manifest.quantization == QuantizationRecipe(scheme=quant, group_size=recipe["group_size"])


def test_manifest_and_report(source: ModelSource, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    noted = replace(source, notes=("something of the source",))
    engine = tmp_path / "engine"
    manifest = build_engine(
        noted, engine, BuildOptions(quant="none", max_length=100), lambda step, done: seen.append((step, done))
    )
    assert read_manifest(engine) == manifest
    assert manifest.quantization == QuantizationRecipe(scheme="none", group_size=None)
    architecture = manifest.architecture
    assert (architecture.layers, architecture.heads, architecture.hidden_size) == (2, 4, 64)
    assert (architecture.kv_heads, architecture.head_dims) == ([2, 2], [16, 16])
    assert (architecture.max_length, architecture.vocab_size) == (100, VOCABULARY)
    stored = load_file(Path(source.model_id) / "model.safetensors")
    assert architecture.parameters == sum(tensor.numel() for tensor in stored.values())
    assert manifest.special_tokens == source.special_tokens
    assert "onnxruntime" in manifest.versions

    recipe, report = json_files(engine)
    assert recipe == {"schema_version": 2, "scheme": "none", "group_size": None, "layers": {}}
    assert report["notes"] == ["something of the source"]
    assert list(report["steps"]) == ["trace", "quantize", "lower", "write", "finish", "smoke run"]
    assert report["build_seconds"] == pytest.approx(sum(report["steps"].values()), abs=0.01)
    assert 50 < report["peak_rss_mb"] < 10_000
    for name, size in report["sizes"].items():
        assert (engine / name).stat().st_size == size
    assert {"generate.onnx", "score.onnx", "weights.bin", "tokenizer.json"} <= set(report["sizes"])

    steps = ["trace", "quantize", "lower", "write", "finish", "smoke run", "done"]
    assert list(dict.fromkeys(step for step, _ in seen)) == steps
    assert seen[-1] == ("done", 1.0)
    assert all(0 <= done <= 1 for _, done in seen)


def test_group_size_that_does_not_divide_falls_back_with_a_note(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model", intermediate_size=96)
    build_engine(source, tmp_path / "engine", BuildOptions(quant="int4", group_size=64))
    recipe, report = json_files(tmp_path / "engine")
    groups = {name: layer["group_size"] for name, layer in recipe["layers"].items()}
    assert groups["model.layers.0.mlp.gate_proj"] == 64
    assert groups["model.layers.0.mlp.down_proj"] == groups["model.layers.1.mlp.down_proj"] == 32
    assert report["notes"] == [
        f"model.layers.{i}.mlp.down_proj is 96 wide, which 64 does not divide: group size 32" for i in range(2)
    ]


def test_width_that_no_group_size_divides_stays_float_with_a_note(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model", intermediate_size=100)
    canonical = canonical_graph(source, BuildOptions(quant="int4"))
    note = "model.layers.0.mlp.down_proj is 100 wide, which no group size divides: left in floating point"
    assert note in canonical.quantization.notes
    build_engine(source, tmp_path / "engine", BuildOptions(quant="int4"))
    recipe, report = json_files(tmp_path / "engine")
    assert note in report["notes"]
    assert "model.layers.0.mlp.down_proj" not in recipe["layers"]
    assert "model.layers.0.mlp.up_proj" in recipe["layers"]
    logits = runtimes.open(tmp_path / "engine").score(np.arange(5))
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        ("qwen3_moe", (".gate_up_proj", ".experts.down_proj")),
        ("jetmoe", (".input_linear.weight", ".output_linear.weight")),
        ("dbrx", (".w1", ".v1", ".w2")),
        ("llama4_text", (".gate_up_proj", ".experts.down_proj")),
    ],
)
def test_experts_are_planned_and_routers_are_not(family: str, parts: tuple[str, ...]) -> None:
    model = tiny_model(family)
    experts = [name for name, _ in model.named_parameters() if name.endswith(parts) and "shared" not in name]
    plan = plan_quantization(model, BuildOptions(quant="int4").chosen_recipe)
    assert [layer.names[0] for layer in plan.layers if layer.experts] == experts
    assert not [layer.module for layer in plan.layers if "router" in layer.module]
    assert not plan_quantization(model, BuildOptions(quant="none").chosen_recipe).layers


def test_embedding_that_no_group_size_divides_stays_float_with_a_note(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model", hidden_size=48, head_dim=16, tie_word_embeddings=True)
    build_engine(source, tmp_path / "engine", BuildOptions(quant="int8"))
    recipe, report = json_files(tmp_path / "engine")
    assert any("model.embed_tokens (Embedding, 48 wide) is left in floating point" in note for note in report["notes"])
    assert not {"model.embed_tokens", "lm_head"} & set(recipe["layers"])
    assert "model.layers.0.mlp.up_proj" in recipe["layers"], "per-channel quantization has no groups"
    assert np.isfinite(runtimes.open(tmp_path / "engine").score(np.arange(5))).all()


def test_max_length_above_the_context_is_refused_first(source: ModelSource, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="max length 257 is over the model's context of 256: lower --max-length"):
        build_engine(source, tmp_path / "deep" / "engine", BuildOptions(max_length=257))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_a_weight_with_nan_is_named(tmp_path: Path, quant: str) -> None:
    checkpoint(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"holds model\.layers\.1\.mlp\.up_proj\.weight with a value that is NaN"):
        build_engine(resolve(str(tmp_path / "model")), tmp_path / "engine", BuildOptions(quant=quant))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no"), MemoryError()])
@pytest.mark.parametrize("when", ["canonical_graph", "ScoreAllPositions", "save_graph"])
def test_an_interrupted_build_leaves_nothing(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, error: BaseException
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(assemble, when, stop)
    if when != "canonical_graph":
        # Trace only once: tracing is slow and not tested here.
        monkeypatch.setattr(assemble, "canonical_graph", _traced_once(source))
    with pytest.raises(type(error)):
        build_engine(source, tmp_path / "engine", BuildOptions(quant="none"))
    assert not list(tmp_path.iterdir())


def _traced_once(source: ModelSource, kept: list[Any] = []) -> Callable[..., Any]:  # noqa: B006 - a cache
    if not kept:
        kept.append(canonical_graph(source, BuildOptions(quant="none")))
    graph = kept[0]
    return lambda *_, **__: replace(graph, graph=graph.graph.clone())


def test_quantizing_reads_one_weight_at_a_time(source: ModelSource, tmp_path: Path) -> None:
    alive: set[int] = set()
    most = 0

    class Counting:
        """The source's weights; counts the tensors that were read and are still in memory."""

        nbytes = source.weights.nbytes
        keys, shape, prequantized = source.weights.keys, source.weights.shape, source.weights.prequantized

        def __contains__(self, name: object) -> bool:
            return name in source.weights

        def read(self, name: str) -> torch.Tensor:
            nonlocal most
            tensor = source.weights.read(name).clone()
            alive.add(id(tensor))
            weakref.finalize(tensor, alive.discard, id(tensor))
            most = max(most, len(alive))
            return tensor

    build_engine(replace(source, weights=Counting()), tmp_path / "engine", BuildOptions(quant="int4"))
    assert 1 <= most <= 2
