"""Engines with states: runs in chunks and in ragged batches, rewinds, and answers are those of a new sequence."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import StateSpec, read_manifest
from edgekiln.errors import EngineError
from edgekiln.runtimes.base import Runtime
from edgekiln.runtimes.generate.conversation import Conversation
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
from edgekiln.runtimes.kv_cache import RaggedKVCache
from edgekiln.runtimes.ort.states import OrtStates
from edgekiln.runtimes.snapshots import MOST
from edgekiln.runtimes.states import States
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.adapters import check_moved_sequences
from support.hybrid_engine import HYBRID, RECURRENT, HybridDecoder, Kind, write_engine

KINDS: dict[str, tuple[Kind, ...]] = {"hybrid": HYBRID, "without attention": RECURRENT}
IDS = np.random.default_rng(0).integers(3, 250, 3000)
OPTIONS = GenerateOptions(max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module", params=KINDS)
def decoder(request: pytest.FixtureRequest) -> HybridDecoder:
    return HybridDecoder.random(KINDS[request.param])


@pytest.fixture(scope="module")
def engine(decoder: HybridDecoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engine(tmp_path_factory.mktemp("engines") / "hybrid", decoder)


@pytest.fixture(scope="module")
def runtime(engine: Path) -> Runtime:
    return runtimes.open(engine, threads=1)


@pytest.fixture(scope="module")
def tokenizer(engine: Path) -> Tokenizer:
    return Tokenizer.from_engine(engine, read_manifest(engine))


def new_cache(runtime: Runtime, batch_size: int = 1) -> RaggedKVCache:
    cache = runtime.new_cache(batch_size)
    assert isinstance(cache, RaggedKVCache)
    return cache


def snapshots(cache: RaggedKVCache, sequence: int = 0) -> list[int]:
    assert cache.states is not None
    return cache.states.snapshots[sequence].lengths


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


def answer(runtime: Runtime, tokenizer: Tokenizer, prompt: np.ndarray, options: GenerateOptions = OPTIONS) -> list[int]:
    """The answer of a new sequence."""
    return [token.id for token in generate(runtime, tokenizer, [prompt], options)]


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_prefill_in_chunks(engine: Path, decoder: HybridDecoder, chunk: int) -> None:
    runtime = runtimes.open(engine, threads=1, chunk=chunk)
    expected = decoder.forward(IDS[:300])
    close(runtime.score(IDS[:300]), expected)
    cache = new_cache(runtime)
    close(runtime.prefill(cache, 0, IDS[:280]), expected[279])
    for position in range(280, 300):
        close(runtime.step(cache, IDS[position : position + 1])[0], expected[position])


def test_a_ragged_batch(runtime: Runtime, decoder: HybridDecoder) -> None:
    lengths = [40, 3, 300]
    expected = decoder.forward(IDS[:340])
    cache = new_cache(runtime, 3)
    for sequence in (1, 2, 0):
        close(runtime.prefill(cache, sequence, IDS[: lengths[sequence]]), expected[lengths[sequence] - 1])
    for step in range(20):
        positions = np.array(lengths) + step
        close(runtime.step(cache, IDS[positions]), expected[positions])
    # More of one of them, between steps.
    close(runtime.prefill(cache, 1, IDS[23:30]), expected[29])
    positions = np.array([60, 30, 320])
    close(runtime.step(cache, IDS[positions]), expected[positions])


def test_moved_sequences(runtime: Runtime) -> None:
    check_moved_sequences(runtime, runtime, close, IDS)


def test_any_order_of_runs_rewinds_and_pauses(runtime: Runtime, decoder: HybridDecoder) -> None:
    random = np.random.default_rng(1)
    batch = 3
    cache = new_cache(runtime, batch)
    sequences: list[list[int]] = [[] for _ in range(batch)]
    paused: set[int] = set()
    for _ in range(120):
        kind = random.choice(["prefill", "step", "step", "rewind", "pause"])
        sequence = int(random.integers(batch))
        tokens = random.integers(0, 250, int(random.choice([1, 2, 9, 150])))
        if kind == "prefill" and len(sequences[sequence]) < 500:
            logits = runtime.prefill(cache, sequence, tokens)
            sequences[sequence] += tokens.tolist()
            paused.discard(sequence)
            close(logits, decoder.forward(np.array(sequences[sequence]))[-1])
        elif kind == "step":
            new = random.integers(0, 250, batch)
            logits = runtime.step(cache, new)
            for index in set(range(batch)) - paused:
                sequences[index].append(int(new[index]))
                close(logits[index], decoder.forward(np.array(sequences[index]))[-1])
        elif kind == "rewind":
            length = int(random.integers(len(sequences[sequence]) + 1))
            kept = [at for at in (0, *snapshots(cache, sequence), len(sequences[sequence])) if at <= length]
            assert cache.rewind(sequence, length) == max(kept)
            del sequences[sequence][max(kept) :]
            paused.discard(sequence)
        elif kind == "pause":
            cache.pause(sequence)
            paused.add(sequence)
        assert [cache.tokens(index).tolist() for index in range(batch)] == sequences


def test_snapshots_are_taken_around_prompts_and_every_512_tokens(runtime: Runtime, decoder: HybridDecoder) -> None:
    cache = new_cache(runtime)
    runtime.prefill(cache, 0, IDS[:600])
    assert snapshots(cache) == [512, 600]
    for position in range(600, 630):
        runtime.step(cache, IDS[position : position + 1])
    assert snapshots(cache) == [512, 600]
    assert cache.rewind(0, 630) == 630, "free"
    runtime.prefill(cache, 0, IDS[630:700])
    assert snapshots(cache) == [512, 600, 630, 700]
    for position in range(700, 1212):
        logits = runtime.step(cache, IDS[position : position + 1])[0]
    assert snapshots(cache) == [512, 600, 630, 700, 1212]
    expected = decoder.forward(IDS[:1212])
    close(logits, expected[1211])
    for length, left in ((1211, 700), (699, 630), (629, 600), (599, 512), (511, 0)):
        assert cache.rewind(0, length) == left
        close(runtime.prefill(cache, 0, IDS[left : left + 1]), expected[left])
    assert snapshots(cache) == []


def test_memory_of_snapshots_is_bounded(runtime: Runtime) -> None:
    cache = new_cache(runtime)
    prompt_end = 0
    for start in range(0, 1400, 35):
        runtime.prefill(cache, 0, IDS[start : start + 30])
        prompt_end = start + 30
        for position in range(prompt_end, start + 35):
            runtime.step(cache, IDS[position : position + 1])
        assert len(snapshots(cache)) <= MOST
        assert prompt_end in snapshots(cache)
    runtime.prefill(cache, 0, IDS[:1600])
    assert len(snapshots(cache)) == MOST
    assert cache.rewind(0, 1420) >= 1000


def test_scores_take_no_snapshots(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OrtStates, "_save", None)
    runtime.score(IDS[:1100])


def test_an_answer_again_and_another_prompt(runtime: Runtime, tokenizer: Tokenizer) -> None:
    cache = new_cache(runtime)
    edited = IDS[:700].copy()
    edited[520] += 1
    for prompt in (IDS[:700], IDS[:700], edited, IDS[:90], IDS[:90], IDS[:1000]):
        tokens = generate(runtime, tokenizer, [prompt], OPTIONS, cache)
        assert [token.id for token in tokens] == answer(runtime, tokenizer, prompt)
        assert cache.tokens(0)[: prompt.size].tolist() == prompt.tolist()


def test_answers_that_were_interrupted(runtime: Runtime, tokenizer: Tokenizer) -> None:
    cache = new_cache(runtime)
    prompt = IDS[:50]
    for count in (1, 2, 5):
        tokens = generate(runtime, tokenizer, [prompt], OPTIONS, cache)
        said = [next(tokens).id for _ in range(count)]
        tokens.close()
        assert cache.tokens(0).tolist() == [*prompt, *said[:-1]]
        prompt = np.array([*prompt, *said, 7, 8, 9])
    assert [token.id for token in generate(runtime, tokenizer, [prompt], OPTIONS, cache)] == answer(
        runtime, tokenizer, prompt
    )


def test_a_conversation(runtime: Runtime, tokenizer: Tokenizer) -> None:
    conversation = Conversation(runtime, tokenizer, system="Be brief.")
    for question in ("Hello?", "And then?", "Why? " * 60, "Who?", "When?"):
        prompt = tokenizer.encode_chat([*conversation.messages, {"role": "user", "content": question}])
        tokens = [token.id for token in conversation.ask(question, OPTIONS)]
        assert tokens == answer(runtime, tokenizer, prompt)
    conversation.messages = conversation.messages[:-2]
    prompt = tokenizer.encode_chat([*conversation.messages, {"role": "user", "content": "Where?"}])
    assert [token.id for token in conversation.ask("Where?", OPTIONS)] == answer(runtime, tokenizer, prompt)


def test_a_batch_whose_answers_end_at_different_times(runtime: Runtime, tokenizer: Tokenizer) -> None:
    prompts = [IDS[:40], IDS[100:103], IDS[200:260], IDS[300:310]]
    alone = [answer(runtime, tokenizer, prompt, GenerateOptions(40, ignore_eos=True)) for prompt in prompts]
    # One ends with its first token, others at a stop string or at the end.
    stops = tuple(tokenizer.decode([alone[index][at]]) for index, at in ((1, 0), (0, 6), (2, 17)))
    options = GenerateOptions(40, ignore_eos=True, stop=tuple(text for text in stops if text.strip()))
    expected = [answer(runtime, tokenizer, prompt, options) for prompt in prompts]
    assert len({len(tokens) for tokens in expected}) >= 3
    cache = new_cache(runtime, len(prompts))
    for kept in (None, cache):
        found: list[list[int]] = [[] for _ in prompts]
        for token in generate(runtime, tokenizer, prompts, options, kept):
            found[token.index].append(token.id)
        assert found == expected
    # The next turn of each goes on where its answer ended.
    for sequence, (prompt, tokens) in enumerate(zip(prompts, expected, strict=True)):
        assert cache.tokens(sequence).tolist() == [*prompt, *tokens[:-1]]
    following = [np.array([*cache.tokens(sequence), 5, 6, 7]) for sequence in range(len(prompts))]
    found = [[] for _ in prompts]
    for token in generate(runtime, tokenizer, following, OPTIONS, cache):
        found[token.index].append(token.id)
    assert found == [answer(runtime, tokenizer, prompt) for prompt in following]


def test_no_tokens_are_drafted(runtime: Runtime, tokenizer: Tokenizer) -> None:
    assert runtime.max_verify_tokens == 1
    stats = SpeculationStats()
    prompt = np.tile(IDS[:10], 20)
    list(generate(runtime, tokenizer, [prompt], OPTIONS, stats=stats))
    assert stats == SpeculationStats(0, 0)
    cache = new_cache(runtime)
    runtime.prefill(cache, 0, prompt)
    logits = runtime.verify(cache, 0, IDS[:1])[0].copy()
    cache.rewind(0, prompt.size)
    np.testing.assert_array_equal(logits, runtime.step(cache, IDS[:1])[0])


class Interrupt(BaseException):
    """Raised as Ctrl-C would be, which no handler of errors catches."""


@pytest.mark.parametrize("place", ["before the run", "after the run", "recording it", "copying", "saving"])
def test_an_interrupted_run_leaves_the_tokens_before_it(
    runtime: Runtime, decoder: HybridDecoder, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    cache = new_cache(runtime, 2)
    runtime.prefill(cache, 0, IDS[:300])
    runtime.prefill(cache, 1, IDS[:20])
    runtime.step(cache, IDS[[300, 20]])

    def interrupted(original: Callable, before: bool) -> Callable:
        def call(*arguments: object) -> object:
            if not before:
                original(*arguments)
            raise Interrupt

        return call

    with monkeypatch.context() as patch:
        owner, name = {
            "before the run": (States, "begin_run"),
            "after the run": (RaggedKVCache, "append"),
            "recording it": (States, "end_run"),
            "copying": (OrtStates, "_copy"),
            "saving": (OrtStates, "_save"),
        }[place]
        patch.setattr(owner, name, interrupted(getattr(owner, name), before=place != "recording it"))
        for run in (lambda: runtime.step(cache, IDS[[301, 21]]), lambda: runtime.prefill(cache, 0, IDS[301:310])):
            try:
                run()
            except Interrupt:
                continue
            break
    lengths = cache.lengths.tolist()
    expected = decoder.forward(IDS[: max(lengths) + 1])
    close(runtime.step(cache, IDS[lengths]), expected[lengths])


def test_states_that_the_graph_does_not_have(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "engine", HybridDecoder.random(RECURRENT))
    path = engine / "engine.json"
    good = json.loads(path.read_text())
    states = good["kv_cache"]["states"]
    extra = StateSpec(shape=[4], dtype="float32").model_dump()
    cases = {
        "io.past_state: generate.onnx has no input past_state.2": [*states, extra],
        "io: generate.onnx has the input past_state.1, which no field names": states[:1],
        "kv_cache.states.0.dtype: past_state.0 of generate.onnx is not float16": [
            {**states[0], "dtype": "float16"},
            states[1],
        ],
        "kv_cache.states.1.shape: past_state.1 of generate.onnx is not of shape [4, 16]": [
            states[0],
            {**states[1], "shape": [4, 16]},
        ],
    }
    for reason, changed in cases.items():
        path.write_text(json.dumps(good | {"kv_cache": {**good["kv_cache"], "states": changed}}))
        with pytest.raises(EngineError) as caught:
            runtimes.open(engine)
        assert str(caught.value) == f"{path} is damaged: {reason}, build the engine again"
