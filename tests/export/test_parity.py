"""The graphs and engines of every family in `models.FAMILIES` give the logits of transformers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgekiln import runtimes
from edgekiln.export.lower import tensorrt
from edgekiln.export.op_reference import evaluator
from edgekiln.export.tracing.meta_model import takes
from edgekiln.pipeline.assemble import canonical_graph, write_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.progress import StepTimer
from edgekiln.runtimes.base import KernelsChoice, Runtime
from edgekiln.sources.resolve import resolve
from support.graphs import standard_session
from support.models import FAMILIES, VOCABULARY, save_checkpoint

Feeds = dict[str, np.ndarray]
TOLERANCE = 1e-3
PROMPTS = (23, 14, 19)
CHUNK = 7
DECODE = 16
CAPACITY = 64
# Relative to the norm of the logits; float16 has 11 significant bits.
HALF_TOLERANCE = 0.03
# Rounding to float16 makes the routers of these random models choose other experts, or is most of what remains of the
# difference of two attentions: their graphs run, and their logits are not compared.
ILL_CONDITIONED = ("jetmoe", "gpt_oss", "llama4_text", "deepseek_v3", "diffllama", "longcat_flash")


@dataclass
class Family:
    name: str
    tokens: list[np.ndarray]
    logits: list[np.ndarray]
    """Logits of transformers [S, V], each sequence alone."""
    padded: np.ndarray
    """Logits of transformers [B, S, V] for the left-padded batch; those of padding are arbitrary."""
    canonical: ir.Model
    engine: Path
    opened: dict[KernelsChoice, Runtime] = field(default_factory=dict)
    """The engine's runtimes, opened on first use."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    directory = tmp_path_factory.mktemp("parity") / request.param
    model = save_checkpoint(directory, request.param)
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, VOCABULARY, prompt + DECODE) for prompt in PROMPTS]
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor(row)[None], use_cache=False).logits[0].numpy() for row in tokens]
        ids, positions, mask = left_padded(tokens)
        padded = model(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            use_cache=False,
            **({"position_ids": torch.tensor(positions)} if takes(model, "position_ids") else {}),
        ).logits.numpy()
    source = resolve(str(directory))
    options = BuildOptions(quant="none", max_length=256)  # not every family says it
    canonical = canonical_graph(source, options)
    traced = canonical.graph.clone()
    engine = directory / "engine"
    engine.mkdir()
    write_engine(canonical, source, engine, options, StepTimer())
    return Family(request.param, tokens, logits, padded, traced, engine)


def left_padded(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, positions and mask [B, S], as transformers' generate makes them."""
    length = max(len(row) for row in rows)
    ids = np.stack([np.pad(row, (length - len(row), 0)) for row in rows])
    mask = np.stack([np.pad(np.ones(len(row), np.int64), (length - len(row), 0)) for row in rows])
    return ids, np.maximum(mask.cumsum(axis=1) - 1, 0), mask


def test_canonical_graph_matches_transformers_with_left_padding(family: Family) -> None:
    graph = family.canonical
    evaluate = evaluator(ir.to_proto(graph))
    check_left_padded(family, graph, lambda feeds: evaluate.run(None, feeds))


def check_left_padded(family: Family, graph: ir.Model, run: Callable[[Feeds], list[np.ndarray]]) -> None:
    """Compare a graph with a growing cache on the padded batch, in chunks and then token by token."""
    ids, positions, _ = left_padded(family.tokens)
    # One chunk beyond the longest padding, another chunk, then single tokens.
    split = max(PROMPTS)
    steps = [
        slice(0, split - CHUNK),
        slice(split - CHUNK, split),
        *(slice(i, i + 1) for i in range(split, ids.shape[1])),
    ]
    past = {
        value.name: np.zeros((len(PROMPTS), value.shape[1], 0, value.shape[3]), np.float32)
        for value in graph.graph.inputs[2:]
    }
    assert len(steps) == DECODE + 2
    for step in steps:
        logits, *present = run({"input_ids": ids[:, step], "position_ids": positions[:, step], **past})
        past = dict(zip(past, present, strict=True))
        np.testing.assert_allclose(logits[:, 0], family.padded[:, step.stop - 1], atol=TOLERANCE, rtol=0)


def test_tensorrt_graph_with_a_growing_cache_matches_transformers_with_left_padding(family: Family) -> None:
    graph = family.canonical.clone()
    tensorrt.lower(graph, tensorrt.GraphOptions(capacity=None, dtype="float32", fused_attention=False))
    session = standard_session(graph)
    check_left_padded(family, graph, lambda feeds: session.run(None, feeds))


@pytest.mark.parametrize(("dtype", "fused"), [("float32", True), ("float32", False), ("float16", True)])
def test_tensorrt_graph_with_an_in_place_cache_matches_transformers(family: Family, dtype: str, fused: bool) -> None:
    graph = family.canonical.clone()
    tensorrt.lower(graph, tensorrt.GraphOptions(capacity=CAPACITY, dtype=dtype, fused_attention=fused))  # type: ignore[arg-type]
    session = standard_session(graph)
    rows = []
    for row, (tokens, prompt) in enumerate(zip(family.tokens, PROMPTS, strict=True)):
        cache = {value.name: np.zeros((1, *value.shape[1:]), dtype) for value in graph.graph.inputs[2:]}  # type: ignore[index, call-overload]
        for start in range(0, prompt, CHUNK):
            new = np.arange(start, min(start + CHUNK, prompt))
            logits, *present = session.run(None, {"input_ids": tokens[None, new], "position_ids": new[None], **cache})
            cache = dict(zip(cache, present, strict=True))
        close(family, logits[:, 0], family.logits[row][None, prompt - 1], dtype)
        rows.append(cache)
    cache = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    for step in range(DECODE):
        positions = np.array(PROMPTS)[:, None] + step
        new = np.array([tokens[position] for tokens, position in zip(family.tokens, positions, strict=True)])
        logits, *present = session.run(None, {"input_ids": new, "position_ids": positions, **cache})
        cache = dict(zip(cache, present, strict=True))
        expected = [family.logits[row][prompt + step] for row, prompt in enumerate(PROMPTS)]
        close(family, logits[:, 0], np.stack(expected), dtype)


def close(family: Family, logits: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    assert logits.dtype == np.float32
    if dtype == "float16" and family.name in ILL_CONDITIONED:
        assert np.isfinite(logits).all()
        return
    if dtype == "float32":
        np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0)
    else:
        assert np.linalg.norm(logits - expected) < HALF_TOLERANCE * np.linalg.norm(expected)


@pytest.fixture
def runtime(family: Family, kernels: KernelsChoice) -> Runtime:
    if kernels not in family.opened:
        family.opened[kernels] = runtimes.open(family.engine, chunk=CHUNK, kernels=kernels)
    runtime = family.opened[kernels]
    assert (runtime.kernels == "onnxruntime") == (kernels == "onnxruntime")
    return runtime


def test_ort_cpu_engine_matches_transformers_alone(family: Family, runtime: Runtime) -> None:
    tokens, expected = family.tokens[0], family.logits[0]
    cache = runtime.new_cache(1)
    logits = runtime.prefill(cache, 0, tokens[: PROMPTS[0]])
    np.testing.assert_allclose(logits, expected[PROMPTS[0] - 1], atol=TOLERANCE, rtol=0)
    for position in range(PROMPTS[0], len(tokens)):
        logits = runtime.step(cache, tokens[position : position + 1])[0]
        np.testing.assert_allclose(logits, expected[position], atol=TOLERANCE, rtol=0)


def test_ort_cpu_engine_matches_transformers_in_a_ragged_batch(family: Family, runtime: Runtime) -> None:
    cache = runtime.new_cache(len(PROMPTS))
    for row, (tokens, prompt) in enumerate(zip(family.tokens, PROMPTS, strict=True)):
        logits = runtime.prefill(cache, row, tokens[:prompt])
        np.testing.assert_allclose(logits, family.logits[row][prompt - 1], atol=TOLERANCE, rtol=0)
    for step in range(DECODE):
        new = np.array([tokens[prompt + step] for tokens, prompt in zip(family.tokens, PROMPTS, strict=True)])
        logits = runtime.step(cache, new)
        expected = [family.logits[row][prompt + step] for row, prompt in enumerate(PROMPTS)]
        np.testing.assert_allclose(logits, np.stack(expected), atol=TOLERANCE, rtol=0)


def test_ort_cpu_engine_scores_every_position(family: Family, runtime: Runtime) -> None:
    np.testing.assert_allclose(runtime.score(family.tokens[1]), family.logits[1], atol=TOLERANCE, rtol=0)
