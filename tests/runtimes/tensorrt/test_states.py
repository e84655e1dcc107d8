"""Models with states on the TensorRT adapter, with a fake device and a fake library, compared with transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tensorrt_rtx")
pytest.importorskip("cuda.bindings.runtime")

from edgekiln.engine.manifest import StateSpec, read_manifest
from edgekiln.errors import EngineError, RequestError
from edgekiln.runtimes.cuda.cuda_device import CudaDevice
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.properties import StateProperties
from edgekiln.runtimes.tensorrt.runtime import TensorRTRuntime
from edgekiln.runtimes.tensorrt.states import TensorRTStates
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.sources.resolve import resolve
from families.tiny import tiny_config, tiny_model
from support.adapters import check_moved_sequences, check_ragged_states
from support.fake_cuda import FakeCuda
from support.fake_tensorrt import open_on_host, write_tensorrt_engine
from support.models import save_model

MAX_LENGTH, MAX_BATCH, CHUNK = 768, 3, 64
IDS = np.random.default_rng(0).integers(3, 250, 700)
FORMS = [("in-place", "trt"), ("in-place", "trt-rtx"), ("growing", "trt")]
# Convolutions and attention; no attention at all; a matrix of each head, and several states in a layer.
MODELS = ["lfm2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mamba", "qwen3_5_text", "rwkv"))]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Directory with an engine in each form, and logits float32[S, V] of `IDS` from transformers."""
    directory = tmp_path_factory.mktemp(request.param)
    has_positions = hasattr(tiny_config(request.param), "max_position_embeddings")
    model = tiny_model(request.param, **({"max_position_embeddings": MAX_LENGTH} if has_positions else {}))
    save_model(directory / "checkpoint", model)
    source = resolve(str(directory / "checkpoint"))
    for layout, target in FORMS:
        write_tensorrt_engine(source, directory / f"{layout}-{target}", target, layout, MAX_BATCH, CHUNK, MAX_LENGTH)
    with torch.no_grad():
        return directory, model(torch.tensor(IDS[None])).logits[0].numpy()


@pytest.fixture(params=FORMS, ids="-".join)
def form(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


def close(actual: np.ndarray, wanted: np.ndarray) -> None:
    assert np.linalg.norm(actual - wanted) < 1e-4 * np.linalg.norm(wanted)


@pytest.mark.parametrize("graph", [True, False], ids=["CUDA graph", "no CUDA graph"])
def test_a_ragged_batch_with_rewinds(model: tuple[Path, np.ndarray], form: tuple[str, str], graph: bool) -> None:
    directory, expected = model
    runtime, cuda, _ = open_on_host(directory / "-".join(form), cuda_graph=graph)
    check_ragged_states(runtime, IDS, expected)
    # Each of the two directions of the states has a graph, whose first run is not captured.
    assert cuda.launches == (21 - 2 if graph and form == ("in-place", "trt") else 0)


def test_moved_sequences(model: tuple[Path, np.ndarray], form: tuple[str, str]) -> None:
    runtime = open_on_host(model[0] / "-".join(form))[0]
    check_moved_sequences(runtime, runtime, close, IDS)


def test_answers_of_a_conversation_equal_those_from_scratch(
    model: tuple[Path, np.ndarray], form: tuple[str, str]
) -> None:
    directory = model[0] / "-".join(form)
    runtime = open_on_host(directory)[0]
    tokenizer = Tokenizer.from_engine(directory, read_manifest(directory))
    options = GenerateOptions(max_tokens=8, ignore_eos=True)
    cache, prompt = runtime.new_cache(1), IDS[:40]
    for turn in range(5):
        tokens = [token.id for token in generate(runtime, tokenizer, [prompt], options, cache)]
        assert tokens == [token.id for token in generate(runtime, tokenizer, [prompt], options)]
        prompt = np.array([*prompt, *tokens, *IDS[turn : turn + 5]])


def test_paused_sequences_keep_their_states(model: tuple[Path, np.ndarray], form: tuple[str, str]) -> None:
    directory, expected = model
    runtime = open_on_host(directory / "-".join(form))[0]
    cache = runtime.new_cache(2)
    for sequence, length in enumerate((20, 30)):
        runtime.prefill(cache, sequence, IDS[:length])
    cache.pause(0)
    for step in range(3):
        close(runtime.step(cache, IDS[[0, 30 + step]])[1], expected[30 + step])
    close(runtime.prefill(cache, 0, IDS[20:25]), expected[24])
    close(runtime.step(cache, IDS[[25, 33]]), expected[[25, 33]])


def test_device_memory_of_a_dropped_cache_is_freed(model: tuple[Path, np.ndarray], form: tuple[str, str]) -> None:
    runtime, cuda, _ = open_on_host(model[0] / "-".join(form))
    before = len(cuda.live)
    cache = runtime.new_cache(2)
    runtime.prefill(cache, 0, IDS[:10])
    runtime.step(cache, IDS[:2])
    assert len(cuda.live) > before
    del cache
    assert len(cuda.live) == before


def test_a_plan_whose_states_do_not_match_engine_json(model: tuple[Path, np.ndarray]) -> None:
    directory = model[0] / "in-place-trt"
    manifest = read_manifest(directory)
    runtime, _, library = open_on_host(directory)
    first, *others = manifest.kv_cache.states

    def open_with(state: StateSpec) -> Any:
        kv_cache = manifest.kv_cache.model_copy(update={"states": [state, *others]})
        changed = manifest.model_copy(update={"kv_cache": kv_cache})
        return TensorRTRuntime(directory, changed, library=library, device=runtime._generate.device)

    with pytest.raises(EngineError, match=r"^the plan's past_state\.0 is \[-1, .*\], engine\.json says \[-1, 3\]"):
        open_with(first.model_copy(update={"shape": [3]}))
    with pytest.raises(EngineError, match=r"^the plan's past_state\.0 is FLOAT, engine\.json says bfloat16: build"):
        open_with(first.model_copy(update={"dtype": "bfloat16"}))


def test_states_that_a_batch_cannot_be_split_by() -> None:
    state = StateProperties.of(StateSpec(shape=[5, 3], dtype="bfloat16"))
    assert state.nbytes == 30
    device = CudaDevice(FakeCuda())
    TensorRTStates([state], device, 1)
    with pytest.raises(RequestError, match=r"state 0 of a sequence has 30 bytes, no multiple of 256, .* a batch of 1$"):
        TensorRTStates([state], device, 2)
