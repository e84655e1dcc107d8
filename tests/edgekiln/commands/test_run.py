"""`edgekiln run`: the library's answer, streamed; prompts and engines that cannot be used."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import edgekiln
from edgekiln import runtimes
from edgekiln.cli import main
from edgekiln.engine.directory import ENGINE_FILE
from edgekiln.engine.manifest import read_manifest
from edgekiln.runtimes.generate.answer import Token
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer


def run(engine: Path, *arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["run", str(engine), *arguments], input=stdin)


def answer(engine: Path, prompt: str, options: GenerateOptions, chat: list[dict[str, str]] | None = None) -> str:
    """The answer of the generate loop."""
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine))
    ids = tokenizer.encode(prompt) if chat is None else tokenizer.encode_chat(chat)
    return "".join(token.text for token in generate(runtimes.open(engine), tokenizer, [ids], options))


def with_newline(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


@pytest.fixture
def copied(tiny_engine: Path, tmp_path: Path) -> Path:
    """A copy of the engine, to be damaged."""
    return Path(shutil.copytree(tiny_engine, tmp_path / "engine"))


def test_answer_is_that_of_the_library(tiny_engine: Path) -> None:
    expected = answer(tiny_engine, "hello", GenerateOptions(max_tokens=12))
    result = run(tiny_engine, "-p", "hello", "--max-tokens", "12", "--temperature", "0")
    assert result.exit_code == 0, result.output
    assert result.stdout == with_newline(expected)
    assert result.stderr == "[cut at --max-tokens 12: raise it for a longer answer]\n"


def test_an_answer_that_is_not_cut_has_no_mark(tiny_engine: Path) -> None:
    result = run(tiny_engine, "-p", "hello", "--regex", "yes")
    assert (result.stdout, result.stderr) == ("yes\n", "")


def test_a_hint_where_a_prompt_has_no_answer(tiny_engine: Path) -> None:
    first = run(tiny_engine, "-p", "hello", "--max-tokens", "1").stdout[0]
    hint = "[no text: --chat makes a message of the prompt, which the model answers]\n"
    result = run(tiny_engine, "-p", "hello", "--stop", first)
    assert (result.stdout, result.stderr, result.exit_code) == ("\n", hint, 0)
    assert run(tiny_engine, "-p", "hello", "--stop", first, "--json").stderr == hint
    assert "[no text" not in run(tiny_engine, "-p", "hello", "--max-tokens", "3").stderr


def test_an_answer_that_fills_the_engine(tiny_engine: Path) -> None:
    holds = read_manifest(tiny_engine).architecture.max_length
    result = run(tiny_engine, "-p", "a" * (holds - 8), "--stats", "--seed", "1", "--temperature", "3")
    assert "[cut: prompt and answer are as long as the engine holds]\n" in result.stderr
    assert "; cut by the length of the engine; " in result.stderr


def test_json(tiny_engine: Path) -> None:
    chosen = ("-p", "hello", "--max-tokens", "6", "--json")
    ids = Tokenizer.from_engine(tiny_engine, read_manifest(tiny_engine)).encode("hello")
    tokens = list(edgekiln.Engine.open(tiny_engine).generate("hello", max_tokens=6))
    result = run(tiny_engine, *chosen)
    value = json.loads(result.stdout)
    assert value["text"] == "".join(token.text for token in tokens)
    assert value["tokens"] == [token.id for token in tokens]
    assert (value["finish_reason"], value["cut"]) == ("length", "--max-tokens")
    assert value["usage"] == {"prompt_tokens": len(ids), "completion_tokens": 6, "total_tokens": len(ids) + 6}
    assert 0 < value["timings"]["first_token_ms"] <= value["timings"]["total_ms"]
    assert min(value["timings"].values()) > 0
    assert value["speculation"]["accepted"] <= value["speculation"]["drafted"]
    assert result.stderr.startswith("[cut at --max-tokens 6")
    ended = json.loads(run(tiny_engine, "-p", "hello", "--regex", "yes", "--json").stdout)
    assert ended["text"] == "yes"
    assert (ended["finish_reason"], ended["cut"]) == ("stop", None)


def test_prompt_from_a_file(tiny_engine: Path, tmp_path: Path) -> None:
    expected = run(tiny_engine, "-p", "two\nlines", "--max-tokens", "8").stdout
    for data in ("two\nlines\n", "two\r\nlines\r\n", "\ufefftwo\nlines", "\ufefftwo\r\nlines\r"):
        file = tmp_path / "prompt.txt"
        file.write_bytes(data.encode())
        assert run(tiny_engine, "-f", str(file), "--max-tokens", "8").stdout == expected
        assert run(tiny_engine, "--file", "-", "--max-tokens", "8", stdin=data.encode()).stdout == expected
        assert run(tiny_engine, "--max-tokens", "8", stdin=data.encode()).stdout == expected
    assert run(tiny_engine, "-p", "two\nlines\r", "--max-tokens", "8").stdout == expected
    assert "nowhere: No such file" in run(tiny_engine, "-f", str(tmp_path / "nowhere")).stderr


def test_one_prompt_at_a_time(tiny_engine: Path) -> None:
    for given, words in (
        (("-p", "a", "-f", "b"), "--prompt and --file do not go together"),
        (("-f", "b", "--jsonl", "c"), "--file and --jsonl do not go together"),
        (("-p", "a", "--out", "b"), "--out goes with --jsonl"),
        (("-p", "a", "--parallel", "2"), "--parallel goes with --jsonl"),
        (("--jsonl", "a", "--json"), "--json does not go with --jsonl"),
    ):
        result = run(tiny_engine, *given)
        assert result.exit_code == 2
        assert words in result.stderr


def test_prompt_from_stdin_without_the_final_newline(tiny_engine: Path) -> None:
    expected = run(tiny_engine, "-p", "two\nlines", "--max-tokens", "8").stdout
    assert run(tiny_engine, "--max-tokens", "8", stdin="two\nlines\n").stdout == expected
    assert run(tiny_engine, "--max-tokens", "8", stdin="two\nlines").stdout == expected


def test_sampling_options_reach_the_sampler(tiny_engine: Path) -> None:
    sampling = SamplingOptions(temperature=1.5, top_k=40, top_p=0.9, min_p=0.01, repetition_penalty=1.2, seed=7)
    expected = answer(tiny_engine, "hello", GenerateOptions(max_tokens=16, sampling=sampling))
    chosen = ["--temperature=1.5", "--top-k=40", "--top-p=0.9", "--min-p=0.01", "--repetition-penalty=1.2", "--seed=7"]
    assert run(tiny_engine, "-p", "hello", "--max-tokens", "16", *chosen).stdout == with_newline(expected)


def test_penalties_reach_the_sampler(tiny_engine: Path) -> None:
    sampling = SamplingOptions(presence_penalty=1.5, frequency_penalty=0.5)
    expected = answer(tiny_engine, "hello", GenerateOptions(max_tokens=16, sampling=sampling))
    chosen = ["--presence-penalty=1.5", "--frequency-penalty=0.5"]
    assert run(tiny_engine, "-p", "hello", "--max-tokens", "16", *chosen).stdout == with_newline(expected)


@pytest.mark.parametrize(
    ("option", "text", "expression"),
    [
        ("--json-schema", '{"enum": ["yes", "no"]}', '"yes"|"no"'),
        ("--grammar", 'start: "yes" | "no" " "? /[0-9]/', "yes|no ?[0-9]"),
        ("--grammar", '# numbers\nroot ::= "yes" | "no" [0-9]', "yes|no[0-9]"),
        ("--regex", "(yes|no){2}", "(yes|no){2}"),
    ],
)
def test_answers_follow_grammars(tiny_engine: Path, tmp_path: Path, option: str, text: str, expression: str) -> None:
    file = tmp_path / "grammar"
    file.write_text(text)
    given = text if option == "--regex" else str(file)
    for others in ((), ("--chat",), ("--temperature=2", "--seed=1")):
        result = run(tiny_engine, "-p", "hello", option, given, *others)
        assert result.exit_code == 0, result.output
        assert re.fullmatch(f"({expression})\n", result.stdout)


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--json-schema", "{", "the JSON schema cannot be used (it is not JSON: "),
        ("--json-schema", '{"not": {}}', 'the JSON schema cannot be used (Unimplemented keys: ["not"]): correct it'),
        ("--grammar", "start: foo", 'the grammar cannot be used (line 1: unknown name: "foo"): correct it'),
        ("--grammar", b"\xff", "grammar is not UTF-8 text (byte 0): convert it first"),
    ],
)
def test_grammars_that_are_refused(
    tiny_engine: Path, tmp_path: Path, option: str, text: str | bytes, message: str
) -> None:
    file = tmp_path / "grammar"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = run(tiny_engine, "-p", "hello", option, str(file))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line


def test_one_grammar_at_a_time(tiny_engine: Path, tmp_path: Path) -> None:
    result = run(tiny_engine, "-p", "x", "--regex", "a", "--json-schema", str(tmp_path))
    assert result.exit_code == 2
    assert "--json-schema and --regex do not go together" in result.stderr
    result = run(tiny_engine, "-p", "x", "--grammar", str(tmp_path / "missing"))
    assert result.exit_code == 2
    assert "missing" in result.stderr


def test_stop_ends_the_answer(monkeypatch: pytest.MonkeyPatch, tiny_engine: Path) -> None:
    seen: list[GenerateOptions] = []

    def fake(*arguments: object) -> Iterator[Token]:
        options = arguments[3]
        assert isinstance(options, GenerateOptions)
        seen.append(options)
        yield Token(0, 1, "answer", None, "stop")

    monkeypatch.setattr("edgekiln.api.generate", fake)
    assert run(tiny_engine, "-p", "x", "--stop", "END", "--stop", "é").stdout == "answer\n"
    assert seen[0].stop == ("END", "é")


@pytest.mark.parametrize(("given", "speculate"), [((), True), (("--speculate",), True), (("--no-speculate",), False)])
def test_speculation_can_be_turned_off(
    monkeypatch: pytest.MonkeyPatch, tiny_engine: Path, given: tuple[str, ...], speculate: bool
) -> None:
    def fake(*arguments: object) -> Iterator[Token]:
        assert isinstance(arguments[3], GenerateOptions)
        yield Token(0, 1, str(arguments[3].speculate), None, "stop")

    monkeypatch.setattr("edgekiln.api.generate", fake)
    assert run(tiny_engine, "-p", "x", *given).stdout == f"{speculate}\n"


@pytest.mark.parametrize("given", ["auto", "show", "hide"])
def test_special_tokens_in_the_answer(monkeypatch: pytest.MonkeyPatch, tiny_engine: Path, given: str) -> None:
    def fake(*arguments: object) -> Iterator[Token]:
        assert isinstance(arguments[3], GenerateOptions)
        yield Token(0, 1, arguments[3].special_tokens, None, "stop")

    monkeypatch.setattr("edgekiln.api.generate", fake)
    assert run(tiny_engine, "-p", "x", "--special-tokens", given).stdout == f"{given}\n"
    if given == "auto":
        assert run(tiny_engine, "-p", "x").stdout == "auto\n"


def test_chat_template_and_system_message(tiny_engine: Path) -> None:
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    expected = answer(tiny_engine, "", GenerateOptions(max_tokens=8), chat=messages)
    common = ("--chat", "--max-tokens", "8", "--temperature", "0")
    assert run(tiny_engine, "-p", "hello", "--system", "be kind", *common).stdout == with_newline(expected)
    expected = answer(tiny_engine, "", GenerateOptions(max_tokens=8), chat=messages[1:])
    assert run(tiny_engine, "-p", "hello", *common).stdout == with_newline(expected)


def test_text_is_streamed(monkeypatch: pytest.MonkeyPatch, tiny_engine: Path) -> None:
    written = []

    def fake(*_: object) -> Iterator[Token]:
        for text in ("one ", "two", ""):
            yield Token(0, 1, text, None, None)
            assert isinstance(sys.stdout.buffer, io.BytesIO)
            written.append(sys.stdout.buffer.getvalue())

    monkeypatch.setattr("edgekiln.api.generate", fake)
    result = run(tiny_engine, "-p", "x")
    assert written == [b"one ", b"one two", b"one two"]
    assert result.stdout == "one two\n"


def test_stats_are_on_stderr(tiny_engine: Path) -> None:
    plain = run(tiny_engine, "-p", "hello", "--max-tokens", "6")
    result = run(tiny_engine, "-p", "hello", "--max-tokens", "6", "--stats")
    assert result.stdout == plain.stdout
    count = len(Tokenizer.from_engine(tiny_engine, read_manifest(tiny_engine)).encode("hello"))
    assert re.fullmatch(
        r"\[cut at --max-tokens 6: raise it for a longer answer\]\n"
        rf"first token after \d+ ms; prompt {count} tokens, [\d.]+ tokens/s; answer \d tokens(, [\d.]+ tokens/s)?"
        r"; cut by --max-tokens"
        r"(; drafted \d tokens, \d accepted \(\d+%\))?; [\d.]+ kB of weights read per token\n",
        result.stderr,
    )


def test_closed_stdout(tiny_engine: Path) -> None:
    command = [sys.executable, "-m", "edgekiln", "run", str(tiny_engine), "-p", "hello"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(sys.platform == "win32", reason="has other file descriptors")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_closed(tiny_engine: Path, tmp_path: Path, closed: str) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello"}\n')
    run = f"{sys.executable} -m edgekiln run {tiny_engine} --max-tokens 3"
    for arguments in ("-p hello", "-p hello --json", f"--jsonl {tmp_path}/in.jsonl"):
        done = subprocess.run(["sh", "-c", f"{run} {arguments} {closed}"], capture_output=True, text=True, check=True)
        assert (done.stdout == "") == (">&-" in closed.replace("2>&-", ""))
        assert ("cut" in done.stderr) == ("2>&-" not in closed)


def test_a_prompt_without_its_option(tiny_engine: Path) -> None:
    result = run(tiny_engine, "Why is the sky blue?")
    assert result.exit_code == 2
    message = "Got unexpected extra argument (Why is the sky blue?): give the prompt by -p (see `main run --help`)"
    assert result.stderr == f"Error: {message}\n"


def test_run_imports_nothing_heavy(tiny_engine: Path) -> None:
    script = (
        "import sys\n"
        "from edgekiln.cli import main\n"
        f"try: main(['run', {str(tiny_engine)!r}, '-p', 'hello', '--max-tokens', '2'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'onnx', 'rich', 'jinja2', 'prompt_toolkit'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("stdin", ["", "\n"])
def test_empty_prompt(tiny_engine: Path, stdin: str) -> None:
    for result in (run(tiny_engine, stdin=stdin), run(tiny_engine, "-p", "")):
        assert result.exit_code == 2
        assert result.stderr == "Error: prompt is empty: give some text\n"


def test_prompt_beyond_max_length(tiny_engine: Path) -> None:
    holds = read_manifest(tiny_engine).architecture.max_length
    result = run(tiny_engine, stdin="hello " * holds)
    assert result.exit_code == 2
    assert re.fullmatch(
        rf"Error: prompt has \d+ tokens, the engine holds {holds}: "
        r"shorten it, as the model holds no more\n",
        result.stderr,
    )


@pytest.mark.parametrize("context", [512, None])
def test_prompt_beyond_max_length_of_a_model_that_takes_more(copied: Path, context: int | None) -> None:
    path = copied / ENGINE_FILE
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"architecture": fields["architecture"] | {"context_length": context}}))
    holds = fields["architecture"]["max_length"]
    for count in (holds * 2, 10**6):
        result = run(copied, stdin="a" * count)
        assert result.exit_code == 2
        assert result.stderr.endswith(": shorten it or build the engine with a larger --max-length\n")


def test_stdin_that_is_not_utf8(tiny_engine: Path) -> None:
    result = run(tiny_engine, stdin=b"abc\xff")
    assert result.exit_code == 2
    assert result.stderr == "Error: stdin is not UTF-8 text (byte 3): convert it first\n"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--temperature", "-1", "temperature must be 0 or"),
        ("--temperature", "nan", "temperature must be 0 or"),
        ("--top-k", "-3", "top_k must be 0 (off) or more, got -3"),
        ("--top-p", "1.3", "top_p must be in [0, 1], got 1.3"),
        ("--min-p", "2", "min_p must be in [0, 1], got 2"),
        ("--repetition-penalty", "0", "repetition_penalty must be more than 0, got 0"),
        ("--seed", "-1", "seed must be in [0, 2^64), got -1"),
        ("--stop", "", "strings that are not empty"),
    ],
)
def test_options_out_of_range(tiny_engine: Path, option: str, value: str, message: str) -> None:
    result = run(tiny_engine, "-p", "x", option, value)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line


def test_not_an_engine(tmp_path: Path) -> None:
    result = run(tmp_path, "-p", "x")
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: {tmp_path} has no engine.json, so it is not an engine directory\n",
    )


@pytest.mark.parametrize("name", ["generate.onnx", "tokenizer.json"])
def test_damaged_file(copied: Path, name: str) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    result = run(copied, "-p", "x")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert f"{copied / name} is damaged or was edited" in line


def test_missing_file(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    result = run(copied, "-p", "x")
    assert result.exit_code == 2
    assert result.stderr == f"Error: {copied / 'tokenizer.json'} is missing from the engine: build it again\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "has schema version 99, this edgekiln reads version 5: upgrade edgekiln"),
        ({"architecture": None}, "is damaged: architecture"),
        ({"target": "abacus"}, "is for target abacus"),
    ],
    ids=["newer", "edited", "target"],
)
def test_engine_json_that_cannot_be_used(copied: Path, change: dict[str, object], message: str) -> None:
    path = copied / ENGINE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    result = run(copied, "-p", "x")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line


def test_truncated_engine_json(copied: Path) -> None:
    path = copied / ENGINE_FILE
    path.write_text(path.read_text()[:100])
    result = run(copied, "-p", "x")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert f"{path} is damaged" in result.stderr
