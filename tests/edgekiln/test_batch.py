"""`Engine.generate_batch` and `Engine.generate_file`: many requests, in order."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekiln
from edgekiln import batch
from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.runtimes.scheduler.options import SchedulerOptions
from edgekiln.runtimes.scheduler.scheduler import Scheduler

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def engine(tiny_engine: Path) -> edgekiln.Engine:
    return edgekiln.Engine.open(tiny_engine)


@pytest.mark.parametrize("parallel", [None, 1, 2, np.int64(5)])
def test_answers_are_those_of_each_request_alone(engine: edgekiln.Engine, parallel: int | None) -> None:
    own: dict[str, Any] = {"max_tokens": 20, "temperature": 1.5, "seed": 3}
    requests: list[Any] = [
        "hello",
        engine.tokenize("and you?"),
        {"prompt": np.array([5, 6, 7]), "id": "c", **own},
        {"messages": MESSAGES, "id": 4},
        *(f"number {index}" for index in range(40)),
    ]
    alone = [
        engine.generate("hello", max_tokens=9),
        engine.generate("and you?", max_tokens=9),
        engine.generate([5, 6, 7], **own),
        engine.chat(MESSAGES, max_tokens=9),
        *(engine.generate(f"number {index}", max_tokens=9) for index in range(40)),
    ]
    answers = list(engine.generate_batch(iter(requests), parallel, max_tokens=9))
    assert [answer.index for answer in answers] == list(range(44))
    assert [answer.id for answer in answers[:5]] == [None, None, "c", 4, None]
    for answer, tokens in zip(answers, alone, strict=True):
        assert answer.tokens == tuple(tokens)
        assert answer.text == "".join(token.text for token in answer.tokens)
        assert answer.finish_reason == answer.tokens[-1].finish_reason
        assert answer.error is None
    assert answers[2].prompt_tokens == 3


def test_options_of_the_batch_and_of_requests(engine: edgekiln.Engine) -> None:
    variables = {"enable_thinking": False}
    requests: list[Any] = ["hello", {"prompt": "hello", "regex": "no"}, {"messages": MESSAGES, "max_tokens": 1}]
    first, second, third = engine.generate_batch(requests, regex="yes", template_variables=variables)
    assert (first.text, second.text) == ("yes", "no")
    assert len(third.tokens) == 1


def test_errors_of_requests_do_not_end_the_batch(engine: edgekiln.Engine) -> None:
    requests: list[Any] = ["", {"id": "b"}, object(), {"prompt": "x", "max_tokens": 0}, [10**6], "hello"]
    answers = list(engine.generate_batch(requests, max_tokens=3))
    assert [answer.error is None for answer in answers] == [False] * 5 + [True]
    assert answers[1] == edgekiln.BatchAnswer(1, "b", error="a request has either a prompt or messages")
    assert "outside the vocabulary" in (answers[4].error or "")
    assert answers[5].text == "".join(token.text for token in engine.generate("hello", max_tokens=3))


def test_requests_are_read_as_they_are_needed(engine: edgekiln.Engine) -> None:
    read = 0

    def requests() -> Iterator[str]:
        nonlocal read
        while read < 10_000:
            read += 1
            yield "hello"

    answers = engine.generate_batch(requests(), 2, max_tokens=2)
    next(answers)
    assert read <= batch._AHEAD * 2
    answers.close()  # type: ignore[attr-defined]
    assert read < 100
    assert list(engine.generate_batch([])) == []


def test_bad_arguments(engine: edgekiln.Engine) -> None:
    for arguments, options, message in (
        (("hello",), {}, "requests must be a list of prompts or of dictionaries, got 'hello'"),
        ((5,), {}, "requests must be a list of prompts or of dictionaries, got 5"),
        (({"prompt": "x"},), {}, "requests must be a list of prompts or of dictionaries, got {"),
        ((["x"], 0), {}, "parallel must be at least 1, got 0"),
        ((["x"], 1.5), {}, "parallel must be an integer, got 1.5"),
        ((["x"],), {"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ((["x"],), {"temprature": 0}, "there is no option 'temprature': did you mean temperature?"),
    ):
        with pytest.raises(RequestError) as caught:
            engine.generate_batch(*arguments, **options)  # type: ignore[arg-type]
        assert str(caught.value).startswith(message)


def test_errors_of_the_runtime(engine: edgekiln.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: Exception) -> None:
        def prefill(*_arguments: object) -> None:
            raise error

        monkeypatch.setattr(engine.runtime, "prefill", prefill)

    failing(EdgekilnError("no memory: use less"))
    assert [answer.error for answer in engine.generate_batch(["a", "b"])] == ["no memory: use less"] * 2
    failing(ZeroDivisionError("by zero"))
    with pytest.raises(ZeroDivisionError):
        list(engine.generate_batch(["a", "b"]))


def test_a_plan_of_few_sequences(engine: edgekiln.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SchedulerOptions] = []

    class Noted(Scheduler):
        def __init__(self, *arguments: Any) -> None:
            seen.append(arguments[2])
            super().__init__(*arguments)

    class Plan:
        max_batch = 2

    monkeypatch.setattr(batch, "Scheduler", Noted)
    for plan, parallel, slots in ((None, None, 8), (Plan(), None, 2), (Plan(), 1, 1)):
        monkeypatch.setattr(engine, "manifest", engine.manifest.model_copy(update={"tensorrt": plan}))
        list(engine.generate_batch(["a"], parallel, max_tokens=1))
        assert seen[-1].slots == slots


def test_files(engine: edgekiln.Engine, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    requests: list[Any] = [{"prompt": "hello"}, {"prompt": ""}, {"messages": MESSAGES, "max_tokens": 2}]
    source.write_text("".join(f"{json.dumps(request)}\n" for request in requests))
    reports: list[tuple[int, int]] = []
    counts = engine.generate_file(source, str(out), progress=lambda *report: reports.append(report), max_tokens=4)
    assert reports == [(1, 3), (2, 3), (3, 3)]
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    expected = list(engine.generate_batch(requests, max_tokens=4))
    assert [answer.get("text", "") for answer in answers] == [answer.text for answer in expected]
    assert [answer.get("error") for answer in answers] == [answer.error for answer in expected]
    assert (counts.total, counts.kept, counts.errors) == (3, 0, 1)
    assert counts.cut == sum(answer.finish_reason == "length" for answer in expected)
    assert counts.prompt_tokens == sum(answer.prompt_tokens for answer in expected)
    assert counts.completion_tokens == sum(len(answer.tokens) for answer in expected)
    before = out.read_bytes()
    out.write_bytes(before[:-5])
    counts = engine.generate_file(str(source), out, max_tokens=4)
    assert (counts.total, counts.kept, counts.errors) == (3, 2, 1)
    assert out.read_bytes() == before
    with pytest.raises(RequestError, match="source must be a path"):
        engine.generate_file(5, out)  # type: ignore[arg-type]


def test_an_id_that_is_not_utf8(engine: edgekiln.Engine, tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"prompt": "a", "id": "\\ud800"}\n')
    for _ in range(2):
        engine.generate_file(tmp_path / "in", tmp_path / "out", max_tokens=1)
        assert json.loads((tmp_path / "out").read_text())["id"] == "\ud800"
