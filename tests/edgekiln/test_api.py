"""The Python API: `edgekiln.build` and `edgekiln.Engine` give the results of the layers below them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekiln
from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import EdgekilnError, EngineError, RequestError, SourceError
from edgekiln.runtimes.generate.conversation import Conversation
from edgekiln.runtimes.generate.generate import GenerateOptions, Token, generate
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.targets import TARGETS

MESSAGES = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def engine(tiny_engine: Path) -> edgekiln.Engine:
    return edgekiln.Engine.open(tiny_engine)


def below(tiny_engine: Path, *prompts: str, **options: object) -> list[Token]:
    """The tokens of the generate loop itself."""
    tokenizer = Tokenizer.from_engine(tiny_engine, read_manifest(tiny_engine))
    chosen = GenerateOptions(**options)  # type: ignore[arg-type]
    return list(generate(runtimes.open(tiny_engine), tokenizer, prompts, chosen))


def test_generate_continues_text_and_token_ids(engine: edgekiln.Engine, tiny_engine: Path) -> None:
    expected = below(tiny_engine, "hello", max_tokens=8)
    ids = engine.tokenize("hello")
    for prompt in ("hello", ids, tuple(ids), np.array(ids)):
        assert list(engine.generate(prompt, max_tokens=8)) == expected


def test_generate_continues_a_batch(engine: edgekiln.Engine, tiny_engine: Path) -> None:
    expected = below(tiny_engine, "hello", "and you?", max_tokens=8)
    assert {token.index for token in expected} == {0, 1}
    prompts = ["hello", "and you?"]
    assert list(engine.generate(prompts, max_tokens=8)) == expected
    assert list(engine.generate([engine.tokenize(prompt) for prompt in prompts], max_tokens=8)) == expected
    assert list(engine.generate(["hello", engine.tokenize("and you?")], max_tokens=8)) == expected


def test_options_reach_the_sampler_and_the_loop(engine: edgekiln.Engine, tiny_engine: Path) -> None:
    sampling = SamplingOptions(temperature=1.5, top_k=40, top_p=0.9, min_p=0.01, repetition_penalty=1.2, seed=7)
    options = {"max_tokens": 12, "ignore_eos": True, "logprobs": True, "speculate": False}
    expected = below(tiny_engine, "hello", sampling=sampling, stop=("\n",), **options)
    assert list(engine.generate("hello", stop="\n", **options, **vars(sampling))) == expected  # type: ignore[arg-type]
    assert expected[0].logprob is not None
    stats = SpeculationStats()
    list(engine.generate("hello hello hello", stats, max_tokens=20))
    assert stats.drafted >= stats.accepted >= 0


def test_options_that_are_left_out_are_the_models(tiny_engine: Path) -> None:
    engine = edgekiln.Engine(tiny_engine)
    engine.manifest = engine.manifest.model_copy(
        update={"sampling": engine.manifest.sampling.model_copy(update={"temperature": 0.5, "top_k": 7})}
    )
    assert engine._options({}).sampling == SamplingOptions(temperature=0.5, top_k=7)
    assert engine._options({"temperature": 0.0, "top_k": None}).sampling == SamplingOptions(top_k=7)


def test_bad_requests(engine: edgekiln.Engine) -> None:
    with pytest.raises(RequestError, match=r"top_p must be in \(0, 1\], got 1.3"):
        engine.generate("x", top_p=1.3)
    with pytest.raises(RequestError, match="prompt is empty"):
        engine.generate("")
    with pytest.raises(RequestError, match="prompts must be a list of at least one"):
        engine.generate([])
    with pytest.raises(RequestError, match="is outside the vocabulary"):
        engine.generate([10**6])
    with pytest.raises(TypeError, match="temprature"):
        engine.generate("x", temprature=1.0)  # type: ignore[call-arg]


def test_chat_and_session(engine: edgekiln.Engine, tiny_engine: Path) -> None:
    tokenizer = Tokenizer.from_engine(tiny_engine, read_manifest(tiny_engine))
    conversation = Conversation(runtimes.open(tiny_engine), tokenizer, "be kind")
    session = engine.session("be kind")
    for number, line in enumerate(("hello", "and you?")):
        expected = list(conversation.ask(line, GenerateOptions(max_tokens=6)))
        if number == 0:
            assert [token.id for token in engine.chat(MESSAGES, max_tokens=6)] == [token.id for token in expected]
        assert list(session.ask(line, max_tokens=6)) == expected
        assert session.messages == conversation.messages
    assert len(session.messages) == 5


def test_text_and_scores(engine: edgekiln.Engine, tiny_engine: Path) -> None:
    ids = engine.tokenize("a kiln")
    assert ids == Tokenizer.from_engine(tiny_engine, read_manifest(tiny_engine)).encode("a kiln").tolist()
    assert engine.detokenize(ids) == "a kiln"
    np.testing.assert_array_equal(engine.score(ids), runtimes.open(tiny_engine).score(np.array(ids)))


def test_open(tiny_engine: Path, tmp_path: Path) -> None:
    engine = edgekiln.Engine.open(str(tiny_engine), threads=1, kernels="onnxruntime", chunk=8, verify=False)
    assert engine.runtime.kernels == "onnxruntime"
    assert engine.manifest == read_manifest(tiny_engine)
    assert repr(engine) == f"Engine({str(tiny_engine)!r}, target='ort-cpu')"
    with pytest.raises(EngineError, match="no engine directory at"):
        edgekiln.Engine.open(tmp_path / "nothing")
    with pytest.raises(EdgekilnError, match="threads must be at least 1, got 0"):
        edgekiln.Engine.open(tiny_engine, threads=0)


def test_build(tiny_checkpoint: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    engine = edgekiln.build(
        tiny_checkpoint, tmp_path / "engine", quant="none", max_length=40, progress=lambda step, _: steps.append(step)
    )
    assert engine.manifest == read_manifest(tmp_path / "engine")
    assert engine.manifest.architecture.max_length == 40
    assert {"reading model", "trace", "write", "done"} <= set(steps)
    assert len(list(engine.generate("hello", max_tokens=4, ignore_eos=True))) == 4


def test_build_checks_options_first(tmp_path: Path) -> None:
    for options, message in (
        ({"target": "abacus"}, f"target must be one of {', '.join(TARGETS)}, got abacus"),
        ({"quant": "int3"}, "quant must be one of none, int8, int4"),
    ):
        with pytest.raises(RequestError, match=message):
            edgekiln.build("no-such-model", tmp_path / "engine", **options)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="no model 'no-such-model'"):
        edgekiln.build("no-such-model", tmp_path / "engine")
    assert not list(tmp_path.iterdir())


def test_importing_edgekiln_is_light() -> None:
    script = (
        "import sys\n"
        "import edgekiln\n"
        "assert {'Engine', 'Session', 'build', 'EngineError', '__version__'} <= set(dir(edgekiln))\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'pydantic', 'click', 'onnxruntime'} & set(sys.modules)))\n"
        "edgekiln.Engine, edgekiln.build\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'rich', 'jinja2', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]"]
    with pytest.raises(AttributeError, match="module 'edgekiln' has no attribute 'engin'"):
        _ = edgekiln.engin
