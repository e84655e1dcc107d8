"""The Python API: `edgekiln.build` and `edgekiln.Engine` give the results of the layers below them."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekiln
from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import EdgekilnError, EngineError, RequestError, SourceError
from edgekiln.runtimes.generate.answer import Token
from edgekiln.runtimes.generate.conversation import Conversation
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
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
    options = {"max_tokens": 12, "ignore_eos": True, "logprobs": True, "speculate": False, "special_tokens": "show"}
    expected = below(tiny_engine, "hello", sampling=sampling, stop=("\n",), **options)
    assert list(engine.generate("hello", stop="\n", **options, **vars(sampling))) == expected  # type: ignore[arg-type]
    assert expected[0].logprob is not None
    stats = SpeculationStats()
    list(engine.generate("hello hello hello", stats, max_tokens=20))
    assert stats.drafted >= stats.accepted >= 0


def test_penalties_and_biases_reach_the_sampler(engine: edgekiln.Engine, tiny_engine: Path) -> None:
    sampling = SamplingOptions(presence_penalty=1.5, frequency_penalty=0.5, logit_bias={7: 3.0, 9: -100.0})
    options = {"max_tokens": 12, "ignore_eos": True, "logprobs": True, "top_logprobs": 2}
    expected = below(tiny_engine, "hello", sampling=sampling, **options)
    assert list(engine.generate("hello", **options, **vars(sampling))) == expected  # type: ignore[arg-type]
    assert expected != below(tiny_engine, "hello", **options)
    assert len(expected[0].top_logprobs) == 2


@pytest.mark.parametrize(
    ("options", "expression"),
    [
        ({"regex": "(yes|no) [0-9]{2}"}, "(yes|no) [0-9]{2}"),
        ({"grammar": 'start: "yes" | "no" " " /[0-9]/'}, "yes|no [0-9]"),
        ({"grammar": 'root ::= "yes" | "no" [0-9]'}, "yes|no[0-9]"),
        ({"json_schema": {"enum": [True, None]}}, "true|null"),
        ({"json_schema": '{"type": "integer", "minimum": 10, "maximum": 99}'}, "[0-9]{2}"),
    ],
)
def test_answers_follow_grammars(engine: edgekiln.Engine, options: dict[str, object], expression: str) -> None:
    session = engine.session(**options)  # type: ignore[arg-type]
    for tokens in (
        engine.generate("hello", **options),  # type: ignore[arg-type]
        engine.generate("hello", temperature=2.0, seed=1, **options),  # type: ignore[arg-type]
        engine.chat(MESSAGES, **options),  # type: ignore[arg-type]
        session.ask("hello"),
        session.ask("and you?"),
    ):
        answer = list(tokens)
        assert re.fullmatch(expression, "".join(token.text for token in answer))
        assert answer[-1].finish_reason in ("stop", "eos")


def test_one_grammar_at_a_time(engine: edgekiln.Engine) -> None:
    message = "json_schema and regex do not go together: give one of them"
    with pytest.raises(RequestError, match=message):
        engine.check_options(json_schema={}, regex="a")
    assert engine._options({"json_schema": None, "regex": None}).constraint is None


def test_options_that_are_left_out_are_the_models(tiny_engine: Path) -> None:
    engine = edgekiln.Engine(tiny_engine)
    engine.manifest = engine.manifest.model_copy(
        update={"sampling": engine.manifest.sampling.model_copy(update={"temperature": 0.5, "top_k": 7})}
    )
    assert engine._options({}).sampling == SamplingOptions(temperature=0.5, top_k=7)
    assert engine._options({"temperature": 0.0, "top_k": None}).sampling == SamplingOptions(top_k=7)


def test_bad_requests(engine: edgekiln.Engine) -> None:
    with pytest.raises(RequestError, match=r"top_p must be in \[0, 1\], got 1.3"):
        engine.generate("x", top_p=1.3)
    with pytest.raises(RequestError, match="prompt is empty"):
        engine.generate("")
    with pytest.raises(RequestError, match="prompt is empty: give at least one token"):
        engine.generate([])
    with pytest.raises(RequestError, match="is outside the vocabulary"):
        engine.generate([10**6])
    with pytest.raises(RequestError, match="there is no option 'temprature': did you mean temperature"):
        engine.generate("x", temprature=1.0)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("max_tokens", (None, math.nan, math.inf, 1.5, True, "2"), "max_tokens must be an integer, got"),
        ("top_k", (1.5, False, "2"), "top_k must be an integer, got"),
        ("seed", (1.5, "2"), "seed must be an integer, got"),
        ("temperature", ("hot", True, [1], 1j), "temperature must be a number, got"),
        ("top_p", ("0.9",), "top_p must be a number, got '0.9'"),
        ("temperature", (10**400,), "temperature must be a number below 1e308, got 1000"),
        ("logprobs", ("no", 1, None), "logprobs must be True or False, got"),
        ("stop", (5, b"x", {"a": 1}), "stop must be a string or a list of strings, got"),
        ("stop", ("", ["a", ""]), "stop must be strings that are not empty"),
        ("stop", ([1], [None]), "stop must be a tuple of strings, got"),
        ("stop", ("a\ud800",), "the text is not UTF-8 (byte 1): convert it first"),
        ("special_tokens", ("", 1, None, True, []), "special_tokens must be one of auto, show, hide, got "),
        ("top_logprobs", (None, 1.5, "2"), "top_logprobs must be an integer, got"),
        ("presence_penalty", ("1", True), "presence_penalty must be a number, got"),
        ("logit_bias", (5, [1], "x"), "logit_bias must map token ids to numbers, got"),
        ("logit_bias", ({"5": 1}, {1.5: 1}, {None: 1}), "a token id of logit_bias must be an integer, got"),
        ("logit_bias", ({5: "1"}, {5: None}), "logit_bias must be a number, got"),
        ("logit_bias", ({10**6: 1.0},), "logit_bias has token 1000000, but the engine has"),
        ("json_schema", (5, [1], True), "a JSON schema must be an object, got"),
        ("json_schema", ({"not": {}},), 'the JSON schema cannot be used (Unimplemented keys: ["not"]): correct it'),
        ("grammar", (5, {}), "grammar must be a string, got"),
        ("regex", (5, {}), "regex must be a string, got"),
        ("regex", ("(",), 'the regular expression cannot be used (line 1: invalid regex "(": unclosed group)'),
        ("stats", (5, {}), "stats must be a SpeculationStats, got"),
    ],
)
def test_values_of_another_type(engine: edgekiln.Engine, name: str, values: tuple[object, ...], message: str) -> None:
    for value in values:
        with pytest.raises(RequestError, match=re.escape(message)):
            engine.generate("x", **{name: value})  # type: ignore[arg-type]


def test_numbers_of_numpy_are_options(engine: edgekiln.Engine) -> None:
    options = {"max_tokens": np.int64(4), "temperature": np.float32(0.5), "top_k": np.int32(9), "seed": np.int64(3)}
    expected = list(engine.generate("x", max_tokens=4, temperature=0.5, top_k=9, seed=3, stop=None))
    assert list(engine.generate("x", **options)) == expected  # type: ignore[arg-type]


def test_prompts_and_ids_of_another_type(engine: edgekiln.Engine) -> None:
    ids = engine.tokenize("hello")
    assert list(engine.generate(np.array(ids, np.int32), max_tokens=2)) == list(engine.generate(ids, max_tokens=2))
    for prompt in (None, 5, b"hi", {"a": 1}, {1, 2}, (token for token in ids)):
        with pytest.raises(RequestError, match="prompt must be text, token ids or a list of either, got"):
            engine.generate(prompt)  # type: ignore[arg-type]
    for prompt in ([1.0], [True], [None], [10**30], [1, "a"], np.array([1.5]), np.array(5), np.zeros((1, 1, 1), int)):
        with pytest.raises(RequestError, match="token ids must be a list or array of integers"):
            engine.generate(prompt)  # type: ignore[arg-type]
        with pytest.raises(RequestError, match="token ids must be a list or array of integers"):
            engine.score(prompt)  # type: ignore[arg-type]
    for bad in ([-1], [10**6], [2**32]):
        with pytest.raises(RequestError, match=f"token id {bad[0]} is outside the vocabulary"):
            engine.detokenize(bad)
    with pytest.raises(RequestError, match="below 2\\^63, got 9223372036854775808"):
        engine.detokenize([2**63])
    for text in (None, b"x"):
        with pytest.raises(RequestError, match="text must be a string, got"):
            engine.tokenize(text)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"the text is not UTF-8 \(byte 1\): convert it first"):
        engine.tokenize("a\ud800")


def test_messages_of_another_type(engine: edgekiln.Engine) -> None:
    for messages in (None, 5, "hello", {"role": "user", "content": "x"}, [None], ["hello"]):
        with pytest.raises(RequestError, match="messages must be a list of dictionaries with role and content, got"):
            engine.chat(messages)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="the conversation is empty: give at least one message"):
        engine.chat([])
    session = engine.session()
    with pytest.raises(RequestError, match=r"the text is not UTF-8 \(byte 0\): convert it first"):
        session.ask("\ud800")
    assert not session.messages


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


def test_a_session_gives_one_answer_at_a_time(engine: edgekiln.Engine) -> None:
    session = engine.session()
    waiting = session.ask("earlier", max_tokens=6)
    answer = session.ask("hello", max_tokens=6, ignore_eos=True)
    next(answer)
    with pytest.raises(RequestError, match="the session is generating another answer: read it to its end or close"):
        session.ask("and you?")
    with pytest.raises(RequestError, match="the session is generating another answer"):
        next(waiting)
    assert not session.messages
    assert len(list(answer)) == 5
    assert [message["role"] for message in session.messages] == ["user", "assistant"]
    closed = session.ask("and you?", max_tokens=6, ignore_eos=True)
    next(closed)
    closed.close()  # type: ignore[attr-defined]
    assert list(session.ask("hello", max_tokens=2))


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
    for options, message in (
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"threads": "2"}, "threads must be an integer, got '2'"),
        ({"threads": 10**30}, "the processors that this process may use, got 10"),
        ({"chunk": 1.5}, "chunk must be an integer, got 1.5"),
        ({"verify": "no"}, "verify must be True or False, got 'no'"),
    ):
        with pytest.raises(EdgekilnError, match=message):
            edgekiln.Engine.open(tiny_engine, **options)  # type: ignore[arg-type]
    for path in (None, b"engine", "a\0b"):
        with pytest.raises(RequestError, match=r"path must be a path, as a string or a pathlib.Path, got"):
            edgekiln.Engine.open(path)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="no engine directory at xxx"):
        edgekiln.Engine.open("x" * 5000)


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
        ({"target": []}, r"target must be one of .*, got \[\]"),
        ({"quant": "int3"}, "quant must be one of none, int8, int4"),
        ({"quant": {}}, "quant must be one of none, int8, int4"),
        ({"max_length": 1.5}, "max length must be an integer, got 1.5"),
        ({"recipe": "recipe.json"}, "recipe must be a Recipe, got 'recipe.json'"),
        ({"tensorrt": None}, "tensorrt must be a TensorRTOptions, got None"),
        ({"trust_remote_code": "no"}, "trust_remote_code must be True or False, got 'no'"),
        ({"progress": 5}, "progress must be a function, got 5"),
        ({"grup_size": 32}, "there is no option 'grup_size': did you mean group_size"),
    ):
        with pytest.raises(RequestError, match=message):
            edgekiln.build("no-such-model", tmp_path / "engine", **options)  # type: ignore[arg-type]
    for model in ("no-such-model", "x" * 5000, "~nobody/x"):
        with pytest.raises(SourceError, match=f"no model '{model}'"):
            edgekiln.build(model, tmp_path / "engine")
    for model, out, name in ((None, tmp_path, "model"), ("smollm2-135m", None, "out")):
        with pytest.raises(RequestError, match=f"{name} must be a path, as a string or a pathlib.Path, got None"):
            edgekiln.build(model, out)  # type: ignore[arg-type]
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
