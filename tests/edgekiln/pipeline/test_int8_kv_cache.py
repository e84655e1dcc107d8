"""Engines with an int8 KV cache: attention computes on the dequantized int8 keys and values, with no other loss."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.calib.data.options import DataOptions
from edgekiln.calib.quantizers.kv_cache import CacheScales, cache_scales
from edgekiln.engine.directory import REPORT_FILE
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import RequestError
from edgekiln.export.lower import ort_cpu
from edgekiln.export.op_reference import attention
from edgekiln.export.passes.ort.int8_kv_cache import QuantizeKVCache
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.sources.resolve import resolve
from support import graphs
from support.models import VOCABULARY, save_checkpoint

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
CAPACITY = 32
RNG = np.random.default_rng(0)
DATA = DataOptions(samples=4, length=32)


def rounded(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """[B, KV, S, D] values, quantized and dequantized with scales [KV, D]."""
    steps = scales[None, :, None]
    return (np.clip(np.rint(values / steps), -128, 127) * steps).astype(np.float32)


@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (5, 0.0), (0, 20.0)])
def test_attention_over_an_int8_cache(kernels: KernelsChoice, window: int, softcap: float) -> None:
    sizes = {"query": HEADS, "key": KV_HEADS, "value": KV_HEADS}
    inputs = {name: ["B", heads, "S", HEAD_DIM] for name, heads in sizes.items()}
    past = {f"past.0.{kind}": ["B", KV_HEADS, "P", HEAD_DIM] for kind in ("key", "value")}
    node = graphs.node(
        "Attention",
        [*inputs, *past, "start_ids"],
        ["out", "present.0.key", "present.0.value"],
        scale=0.25,
        window=window,
        softcap=softcap,
    )
    model = graphs.graph(
        [node],
        {**inputs, **past, "start_ids": ["B"], "position_ids": ["B", "S"]},
        {
            "out": ["B", "S", HEADS, HEAD_DIM],
            "present.0.key": ["B", KV_HEADS, "T", HEAD_DIM],
            "present.0.value": ["B", KV_HEADS, "T", HEAD_DIM],
        },
        {},
    )
    scales = CacheScales(*RNG.uniform(0.005, 0.03, (2, KV_HEADS, HEAD_DIM)).astype(np.float32))
    ort_cpu.lower(model, CAPACITY)
    QuantizeKVCache([scales])(model)
    session = graphs.session(model, kernels=kernels)
    length = 9
    steps = {name: RNG.standard_normal((1, heads, length, HEAD_DIM), dtype=np.float32) for name, heads in sizes.items()}
    cache = {name: np.zeros((1, KV_HEADS, CAPACITY, HEAD_DIM), np.int8) for name in past}
    held = [np.zeros((1, KV_HEADS, 0, HEAD_DIM), np.float32)] * 2
    for new in (slice(0, 6), slice(6, 7), slice(7, 9)):
        feeds = {name: array[:, :, new] for name, array in steps.items()}
        query, key, value = feeds.values()
        key, value = rounded(key, scales.key), rounded(value, scales.value)
        expected, *held = attention(query, key, value, *held, np.zeros(1), scale=0.25, window=window, softcap=softcap)
        feeds |= {"position_ids": np.arange(new.start, new.stop)[None], "start_ids": np.zeros(1, np.int64)}
        out, *present = session.run(["out", "present.0.key", "present.0.value"], {**feeds, **cache})
        np.testing.assert_allclose(out, expected, atol=2e-3, rtol=0)
        cache = dict(zip(past, present, strict=True))
        for codes, floats, steps_of in zip(present, held, scales, strict=True):
            assert codes.dtype == np.int8
            np.testing.assert_allclose(codes[:, :, : new.stop] * steps_of[None, :, None], floats, atol=1e-6)


# RoPE; softcap and sliding windows; shared KV layers; two head sizes; learned positions.
_SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in ("gemma3n_text", "gemma4_text")]
_FAMILIES = ["llama", "gemma2", *_SLOW, "gpt2"]


@pytest.fixture(scope="module", params=_FAMILIES)
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A family's engine with a float32 and with an int8 KV cache."""
    directory = tmp_path_factory.mktemp("int8_cache") / request.param
    save_checkpoint(directory, request.param)
    text = directory / "text.txt"
    text.write_text("".join(map(chr, RNG.integers(32, 127, 1000))))
    for kv in ("float32", "int8"):
        options = BuildOptions(quant="none", kv=kv, data=DataOptions(str(text), samples=16, length=64))  # type: ignore[arg-type]
        build_engine(resolve(str(directory)), directory / kv, options)
    return directory / "float32", directory / "int8"


def test_int8_cache_logits_are_close_to_float32(engines: tuple[Path, Path], kernels: KernelsChoice) -> None:
    exact, engine = (runtimes.open(path, kernels=kernels, chunk=7) for path in engines)
    assert (engine.kernels == "onnxruntime") == (kernels == "onnxruntime")
    prompts = [RNG.integers(32, 127, length) for length in (23, 14)]
    cache, own = exact.new_cache(2), engine.new_cache(2)
    for sequence, tokens in enumerate(prompts):
        close(engine.prefill(own, sequence, tokens), exact.prefill(cache, sequence, tokens))
    assert {part.dtype for layer in own.layers for part in layer} == {np.dtype(np.int8)}  # type: ignore[attr-defined]
    for tokens in RNG.integers(32, 127, (6, 2)):
        close(engine.step(own, tokens), exact.step(cache, tokens))
    tokens = RNG.integers(32, 127, 30)
    close(engine.score(tokens), exact.score(tokens))


def close(logits: np.ndarray, expected: np.ndarray) -> None:
    # Random models amplify differences; attention alone is compared with numpy above.
    assert np.linalg.norm(logits - expected) < 0.2 * np.linalg.norm(expected)
    assert not np.array_equal(logits, expected)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("int8_cache") / "tiny"
    save_checkpoint(directory, "llama", num_hidden_layers=2)
    build_engine(resolve(str(directory)), directory / "engine", BuildOptions(quant="none", kv="int8", data=DATA))
    return directory / "engine"


def test_manifest_and_report(tiny: Path) -> None:
    assert read_manifest(tiny).kv_cache.dtype == "int8"
    report = json.loads((tiny / REPORT_FILE).read_text())
    assert report["steps"]["calibrate the KV cache"] > 0
    assert report["sizes"]["generate.onnx"] == (tiny / "generate.onnx").stat().st_size


def test_past_and_present_are_one_buffer(tiny: Path, kernels: KernelsChoice) -> None:
    runtime = runtimes.open(tiny, kernels=kernels)
    cache = runtime.new_cache(2)
    runtime.prefill(cache, 1, np.arange(40))
    before = [part.ctypes.data for layer in cache.layers for part in layer]  # type: ignore[attr-defined]
    assert all(np.any(part[1]) and not np.any(part[0]) for layer in cache.layers for part in layer)  # type: ignore[attr-defined]
    runtime.prefill(cache, 0, np.arange(3))
    runtime.step(cache, np.array([5, 6]))
    assert [part.ctypes.data for layer in cache.layers for part in layer] == before  # type: ignore[attr-defined]
    assert all(np.any(part[1, :, 40]) and not np.any(part[1, :, 41:]) for layer in cache.layers for part in layer)  # type: ignore[attr-defined]


def test_largest_value_of_a_channel_is_near_127(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "tiny", "llama", num_hidden_layers=2)
    build_engine(resolve(str(tmp_path / "tiny")), tmp_path / "engine", BuildOptions(quant="none"))
    runtime = runtimes.open(tmp_path / "engine")
    windows = RNG.integers(0, VOCABULARY, (3, 20))
    done: list[float] = []
    scales = cache_scales(runtime, windows, done.append)  # type: ignore[arg-type]
    assert done == pytest.approx([1 / 3, 2 / 3, 1])
    keys = []
    for window in windows:
        cache = runtime.new_cache()
        runtime.prefill(cache, 0, window)
        keys.append(cache.layers[1][0][0, :, :20])  # type: ignore[attr-defined]
    codes = np.abs(np.stack(keys)).max(axis=(0, 2)) / scales[1].key
    np.testing.assert_allclose(codes, codes[0, 0], rtol=1e-5)
    assert 100 < codes[0, 0] <= 127
    assert len(scales) == 2
    assert scales[0].value.shape == (2, 16)


def test_number_of_scales_must_match_the_layers() -> None:
    model = graphs.graph([graphs.node("Identity", ["x"], "y")], {"x": ["B"]}, {"y": ["B"]}, {})
    with pytest.raises(ValueError, match="1 layers of scales for 0 layers of attention"):
        QuantizeKVCache([CacheScales(np.ones((1, 8), np.float32), np.ones((1, 8), np.float32))])(model)


def test_unknown_cache_type() -> None:
    with pytest.raises(RequestError, match="kv must be one of float32, int8, got int4"):
        BuildOptions(kv="int4")  # type: ignore[arg-type]
