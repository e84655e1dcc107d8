"""`edgekiln run --jsonl`: a line for each request, in order, and resumable."""

import io
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgekiln
from edgekiln.batch_requests import RequestFile
from edgekiln.cli import main

MESSAGES = [{"role": "user", "content": "hello"}]
REQUESTS: list[Any] = [
    {"prompt": "hello", "id": "first"},
    {"messages": MESSAGES, "max_tokens": 9, "id": 2},
    {"prompt": "and you?", "temperature": 1.5, "seed": 7},
    {"prompt": [5, 6, 7], "stop": None},
    {"messages": [{"role": "system", "content": "be kind"}, *MESSAGES], "max_completion_tokens": 3},
]


@pytest.fixture(scope="module")
def engine(tiny_engine: Path) -> edgekiln.Engine:
    return edgekiln.Engine.open(tiny_engine)


def write(path: Path, *requests: object) -> Path:
    lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in requests]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def run(engine: edgekiln.Engine, *arguments: str | Path, stdin: bytes | None = None) -> Result:
    command = ["run", str(engine.path), "--max-tokens", "6", *map(str, arguments)]
    return CliRunner().invoke(main, command, input=stdin)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def expected(engine: edgekiln.Engine, system: str | None = None) -> list[str]:
    """The answers to `REQUESTS`, each alone."""
    own = [] if system is None else [{"role": "system", "content": system}]
    streams = (
        engine.generate("hello", max_tokens=6),
        engine.chat([*own, *MESSAGES], max_tokens=9),
        engine.generate("and you?", max_tokens=6, temperature=1.5, seed=7),
        engine.generate([5, 6, 7], max_tokens=6),
        engine.chat(REQUESTS[4]["messages"], max_tokens=3),
    )
    return ["".join(token.text for token in stream) for stream in streams]


@pytest.mark.parametrize("parallel", [(), ("--parallel", "1"), ("--parallel", "3")])
def test_answers_are_those_of_each_request_alone(
    engine: edgekiln.Engine, tmp_path: Path, parallel: tuple[str, ...]
) -> None:
    source = write(tmp_path / "in.jsonl", *REQUESTS)
    result = run(engine, "--jsonl", source, *parallel)
    assert result.exit_code == 0, result.stderr
    answers = lines(result.stdout)
    assert [answer["text"] for answer in answers] == expected(engine)
    assert [answer["index"] for answer in answers] == [0, 1, 2, 3, 4]
    assert [answer.get("id") for answer in answers] == ["first", 2, None, None, None]
    assert answers[3]["usage"]["prompt_tokens"] == 3
    for answer in answers:
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert answer["finish_reason"] in ("length", "eos")
        assert answer.keys() <= {"index", "id", "text", "finish_reason", "usage", "request"}
    cut = sum(answer["finish_reason"] == "length" for answer in answers)
    assert result.stderr == f"{cut} of 5 answers were cut: they have the finish_reason length\n"


def test_stdin_and_stdout(engine: edgekiln.Engine, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *REQUESTS)
    plain = run(engine, "--jsonl", source).stdout
    data = source.read_bytes()
    windows = b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n\r\n")
    for given in (data, data.rstrip(b"\n"), windows):
        assert run(engine, "--jsonl", "-", stdin=given).stdout == plain
        source.write_bytes(given)
        assert run(engine, "--jsonl", source, "--out", "-").stdout == plain
    assert run(engine, "--jsonl", "-", stdin=b"").stdout == ""
    assert run(engine, "--jsonl", "-", stdin=b"\n \n").exit_code == 0


def test_prompts_as_messages(engine: edgekiln.Engine, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *REQUESTS)
    answers = lines(run(engine, "--jsonl", source, "--system", "be brave").stdout)
    assert [answer["text"] for answer in answers] == expected(engine, "be brave")
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello", "max_tokens": 9}\n')
    (answer,) = lines(run(engine, "--jsonl", source, "--chat", "--system", "be brave").stdout)
    assert answer["text"] == expected(engine, "be brave")[1]


BAD = [
    (b"x", "line 1 is not JSON (Expecting value at character 1): correct it"),
    (b"\xff", "line 1 is not UTF-8 text (byte 0): convert it first"),
    (b"NaN", "line 1 is not JSON (NaN is not JSON): correct it"),
    (b'"text"', "line 1 is not an object with a prompt or messages, got 'text'"),
    ({"id": "x"}, "a request has either a prompt or messages"),
    ({"prompt": "a", "messages": MESSAGES, "id": "x"}, "a request has either a prompt or messages, this one has both"),
    ({"prompt": "", "id": "x"}, "prompt is empty: give some text"),
    ({"prompt": [], "id": "x"}, "prompt is empty: give at least one token"),
    ({"prompt": ["a", "b"], "id": "x"}, "a request has one prompt, this one has 2: give each its own"),
    ({"prompt": 5, "id": "x"}, "prompt must be text, token ids or a list of either, got 5"),
    ({"messages": "hi", "id": "x"}, "messages must be a list of dictionaries with role and content, got 'hi'"),
    ({"messages": [], "id": "x"}, "the conversation is empty: give at least one message"),
    ({"prompt": "a", "tools": [], "id": "x"}, "tools goes with messages, this request has a prompt"),
    ({"prompt": "a", "max_tokens": 0, "id": "x"}, "max_tokens must be at least 1, got 0"),
    ({"prompt": "a", "temprature": 1, "id": "x"}, "there is no option 'temprature': did you mean temperature?"),
    ({"prompt": "a", "model": "x", "id": "x"}, "there is no option 'model': the options are "),
    ({"prompt": "a", "regex": "(", "id": "x"}, "the regular expression cannot be used"),
    ({"prompt": "a", "logit_bias": {"x": 1}, "id": "x"}, "line 1 has a logit_bias whose keys are not token ids"),
    ({"prompt": "a", "logit_bias": {"999999": 1}, "id": "x"}, "logit_bias has token 999999, but the engine has"),
    ({"prompt": "a" * 3000, "id": "x"}, "prompt has "),
    (
        {"prompt": "a", "max_tokens": 5, "max_completion_tokens": 5, "id": "x"},
        "line 1 has max_tokens and max_completion_tokens: give one of them",
    ),
    ({"prompt": "a", "id": 1.5}, "line 1 has an id that is neither a string nor an integer, got 1.5"),
    ({"prompt": "a", "id": True}, "line 1 has an id that is neither a string nor an integer, got True"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_line_does_not_end_the_batch(engine: edgekiln.Engine, tmp_path: Path, bad: object, message: str) -> None:
    result = run(engine, "--jsonl", write(tmp_path / "in.jsonl", bad, REQUESTS[0]))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == ("Error: 1 of 2 requests have no answer: their lines say why in `error`")
    error, answer = lines(result.stdout)
    assert error["error"].startswith(message)
    assert error.get("id") == ("x" if isinstance(bad, dict) and bad["id"] == "x" else None)
    assert error.keys() <= {"index", "id", "error", "request"}
    assert (answer["index"], answer["id"], answer["text"]) == (1, "first", expected(engine)[0])


def test_options_of_a_line(engine: edgekiln.Engine, tmp_path: Path) -> None:
    token = engine.tokenize("z")[-1]
    source = write(
        tmp_path / "in.jsonl",
        {"prompt": "hello", "regex": "yes|no"},
        {"prompt": "hello", "json_schema": {"enum": [7]}},
        {"prompt": "hello", "logit_bias": {str(token): 100}},
        {"prompt": "hello", "logprobs": True, "top_logprobs": 2, "max_tokens": 2},
        {"messages": MESSAGES, "parse_special": True},
    )
    answers = lines(run(engine, "--jsonl", source).stdout)
    assert answers[0]["text"] in ("yes", "no")
    assert answers[1]["text"] == "7"
    assert answers[2]["text"] == "z" * 6
    assert [len(token["top_logprobs"]) for token in answers[3]["logprobs"]] == [2, 2]
    assert [token["id"] for token in answers[3]["logprobs"]] == [
        token.id for token in engine.generate("hello", max_tokens=2)
    ]
    assert "error" not in answers[4]


def test_going_on_after_every_byte(engine: edgekiln.Engine, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *REQUESTS[:3], b"[")
    out = tmp_path / "out.jsonl"
    run(engine, "--jsonl", source, "--out", out)
    whole = out.read_bytes()
    ends = [0, *itertools.accumulate(len(line) for line in whole.splitlines(keepends=True))]
    cuts = sorted(
        {*ends, *(end + 1 for end in ends[:-1]), *(end + 20 for end in ends[:-1]), *(end - 1 for end in ends[1:])}
    )
    for cut in cuts:
        out.write_bytes(whole[:cut])
        result = run(engine, "--jsonl", source, "--out", out)
        assert out.read_bytes() == whole
        assert result.exit_code == 2
        assert "1 of 4 requests have no answer" in result.stderr
        kept = whole[:cut].count(b"\n")
        assert (f"had {kept} of 4 answers, which were kept" in result.stderr) == bool(kept)


OTHER = "is for another request, other options or another engine: give another file"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"my notes", "line 1 of OUT is no answer of a batch: give another file"),
        (b"my notes\n", "line 1 of OUT is no answer of a batch: give another file"),
        (b'{"prompt": "hello"}\n', "line 1 of OUT is no answer of a batch: give another file"),
        (b'{"index": 1, "text": ""}\n', "line 1 of OUT is no answer of a batch: give another file"),
        (b'{"index": 0, "id": "b", "text": ""}\n', f"line 1 of OUT {OTHER}"),
        (b'{"index": 0, "text": ""}\n', f"line 1 of OUT {OTHER}"),
        (b'{"index": 0, "id": "a", "text": ""}\n', f"line 1 of OUT {OTHER}"),
    ],
)
def test_other_files_are_not_changed(engine: edgekiln.Engine, tmp_path: Path, contents: bytes, message: str) -> None:
    source = write(tmp_path / "in.jsonl", {"prompt": "hello", "id": "a"})
    out = tmp_path / "out.jsonl"
    out.write_bytes(contents)
    result = run(engine, "--jsonl", source, "--out", out)
    assert result.stderr == f"Error: {message.replace('OUT', str(out))}\n"
    assert out.read_bytes() == contents


def test_answers_are_kept_for_the_same_requests_options_and_engine_only(
    engine: edgekiln.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Any] = [{"prompt": "hello"}, {"prompt": "you", "seed": 1}]
    source, out = write(tmp_path / "in.jsonl", *requests), tmp_path / "out.jsonl"
    assert run(engine, "--jsonl", source, "--out", out).exit_code == 0
    whole = out.read_bytes()
    kept = f"{out} had 2 of 2 answers, which were kept"
    for same in ((), ("--no-speculate",), ("--parallel", "1"), ("--stats",)):
        assert kept in run(engine, "--jsonl", source, "--out", out, *same).stderr
    assert kept in run(engine, "--jsonl", source, "--out", out, "--system", "for conversations").stderr
    for other in (("--chat",), ("--max-tokens", "7"), ("--temperature", "1"), ("--stop", "x")):
        result = run(engine, "--jsonl", source, "--out", out, *other)
        assert result.stderr == f"Error: line 1 of {out} {OTHER}\n"
    write(source, requests[0], {"prompt": "you", "seed": 2}, {"prompt": "a third"})
    assert run(engine, "--jsonl", source, "--out", out).stderr == f"Error: line 2 of {out} {OTHER}\n"
    write(source, requests[0])
    assert run(engine, "--jsonl", source, "--out", out).stderr == f"Error: line 2 of {out} {OTHER}\n"
    assert out.read_bytes() == whole
    write(source, *requests, {"prompt": "a third"})
    assert run(engine, "--jsonl", source, "--out", out).exit_code == 0
    assert out.read_bytes().startswith(whole)
    assert engine.generate_file(source, out, max_tokens=6).kept == 3
    manifest = engine.manifest
    rebuilt = {**manifest.files, "report.json": "of another time"}
    monkeypatch.setattr(engine, "manifest", manifest.model_copy(update={"files": rebuilt}))
    assert engine.generate_file(source, out, max_tokens=6).kept == 3
    monkeypatch.setattr(engine, "manifest", manifest.model_copy(update={"files": {**rebuilt, "weights.bin": "other"}}))
    with pytest.raises(edgekiln.RequestError, match=f"line 1 of {out} {OTHER}"):
        engine.generate_file(source, out, max_tokens=6)


def test_one_process_writes_a_file_at_a_time(engine: edgekiln.Engine, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    source, out = write(tmp_path / "in.jsonl", *REQUESTS), tmp_path / "out.jsonl"
    with out.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = run(engine, "--jsonl", source, "--out", out)
    message = f"Error: another process writes answers to {out}: wait for it, or give another file\n"
    assert (result.exit_code, result.stderr) == (2, message)
    assert run(engine, "--jsonl", source, "--out", out).exit_code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(engine: edgekiln.Engine, tmp_path: Path) -> None:
    result = run(engine, "--jsonl", write(tmp_path / "in.jsonl", *REQUESTS), "--out", "/dev/full")
    message = "Error: cannot write /dev/full: no space left on the disk; later, the same command goes on\n"
    assert (result.exit_code, result.stderr) == (2, message)


def test_files_that_cannot_be_used(engine: edgekiln.Engine, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", REQUESTS[0])
    for arguments, words in (
        (("--jsonl", tmp_path / "nowhere"), "nowhere: No such file or directory"),
        (("--jsonl", tmp_path), "Is a directory"),
        (("--jsonl", source, "--out", source), "is the file of the requests: give another file"),
        (("--jsonl", source, "--out", tmp_path), "Is a directory"),
        (("--jsonl", source, "--out", tmp_path / "no" / "out"), "No such file or directory"),
        (("--jsonl", source, "--out", engine.path / "engine.json"), "is a file of the engine"),
        (("--jsonl", source, "--max-tokens", "0"), "max_tokens must be at least 1, got 0"),
    ):
        result = run(engine, *arguments)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert words in line
    assert json.loads(source.read_text()) == REQUESTS[0]
    assert run(engine, "--jsonl", source, "--out", "/dev/null").exit_code == 0


def test_stats(engine: edgekiln.Engine, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", {"prompt": [5, 6]}, {"prompt": [5, 7, 8], "regex": "yes"})
    (line,) = run(engine, "--jsonl", source, "--stats", "--regex", "no").stderr.splitlines()
    assert line.startswith("2 requests in ")
    assert "; prompts 5 tokens; answers " in line
    assert line.endswith(" tokens/s")


def test_ctrl_c_leaves_a_file_that_is_gone_on_with(engine: edgekiln.Engine, tmp_path: Path) -> None:
    requests = [{"prompt": f"hello {number}", "ignore_eos": True, "max_tokens": 60} for number in range(60)]
    source, out, other = write(tmp_path / "in.jsonl", *requests), tmp_path / "out.jsonl", tmp_path / "other.jsonl"
    command = [sys.executable, "-m", "edgekiln", "run", str(engine.path), "--jsonl", str(source), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while not (out.exists() and out.read_bytes().count(b"\n") >= 2):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        messages = process.stderr.read().decode()
    assert process.returncode == 130
    done = out.read_bytes().count(b"\n")
    assert messages == f"{done} answers are in {out}: the same command goes on after them\nInterrupted\n"
    assert done < 60
    assert run(engine, "--jsonl", source, "--out", out).exit_code == 0
    assert run(engine, "--jsonl", source, "--out", other).exit_code == 0
    assert out.read_bytes() == other.read_bytes()
    assert out.read_bytes().count(b"\n") == 60


def terminal_output(command: list[str], stdout: int | None) -> str:
    """What a command writes to a terminal that is its stderr."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout or slave, stderr=slave) as process:
        os.close(slave)
        written = b""
        while True:
            if not select.select([master], [], [], 60)[0]:
                process.kill()
                pytest.fail("no output")
            try:
                part = os.read(master, 4096)
            except OSError:  # the end, on Linux
                break
            if not part:
                break
            written += part
    os.close(master)
    assert process.returncode == 0
    return written.decode()


def test_a_progress_bar_in_terminals_only(engine: edgekiln.Engine, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *[{"prompt": "a"}] * 3)
    command = [sys.executable, "-m", "edgekiln", "run", str(engine.path), "--jsonl", str(source), "--regex", "no"]
    assert "3/3" in terminal_output([*command, "--out", str(tmp_path / "out.jsonl")], None)
    assert "3/3" in terminal_output(command, subprocess.DEVNULL)
    shown = terminal_output(command, None)  # the answers are in the same terminal
    assert "3/3" not in shown
    assert shown.count('"index"') == 3


def test_lines_are_counted_without_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\n1\n \r\n2")
    assert RequestFile.open(tmp_path / "a").count() == 2
    assert RequestFile("stdin", None, io.BytesIO(b"1\n\n").getvalue()).count() == 1


def test_a_hint_where_prompts_have_no_answers(engine: edgekiln.Engine, tmp_path: Path) -> None:
    end = {str(min(engine.tokenizer.eos_ids)): 100}
    ending = [{"prompt": "hello", "logit_bias": end}, {"prompt": "you", "logit_bias": end}, {"prompt": "you"}]
    source = write(tmp_path / "in.jsonl", *ending)
    hint = "2 of 3 answers are empty: --chat makes messages of prompts\n"
    result = run(engine, "--jsonl", source, "--out", tmp_path / "out.jsonl")
    assert result.exit_code == 0
    assert hint in result.stderr
    assert hint in run(engine, "--jsonl", source, "--out", tmp_path / "out.jsonl").stderr
    assert hint not in run(engine, "--jsonl", source, "--chat").stderr
