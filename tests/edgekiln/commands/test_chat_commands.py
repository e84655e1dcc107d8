"""The commands of `edgekiln chat`, from a pipe."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import edgekiln
from edgekiln.cli import main
from edgekiln.commands._chat import slash_commands

OPTIONS = ("--max-tokens", "4", "--temperature", "0")


def chat(engine: Path, *lines: str, options: tuple[str, ...] = (), newline: str = "\n") -> Result:
    text = "".join(line + newline for line in lines)
    return CliRunner().invoke(main, ["chat", str(engine), *OPTIONS, *options], input=text.encode())


@pytest.fixture(scope="module")
def engine(tiny_engine: Path) -> edgekiln.Engine:
    return edgekiln.Engine.open(tiny_engine)


def answers(engine: edgekiln.Engine, *conversations: list[tuple[str, str]]) -> str:
    """What a chat prints that asks for the last answer of each conversation, of (role, content)."""
    printed = ""
    for conversation in conversations:
        messages = [{"role": role, "content": content} for role, content in conversation]
        printed += "".join(token.text for token in engine.chat(messages, max_tokens=4, temperature=0))
        printed += "" if printed.endswith("\n") else "\n"
    return printed


def said(result: Result) -> list[str]:
    """The lines on stderr but the marks of answers that were cut."""
    assert result.exit_code == 0
    return [line for line in result.stderr.splitlines() if not line.startswith("[cut at")]


@pytest.mark.parametrize("leave", ["/exit", "/quit", "/bye", "/EXIT", "/Bye "])
def test_leaving(engine: edgekiln.Engine, leave: str) -> None:
    result = chat(engine.path, "hello", leave, "more")
    assert result.stdout == answers(engine, [("user", "hello")])
    assert said(result) == []


@pytest.mark.parametrize("name", ["/help", "/HELP", "/?"])
def test_help_lists_all_commands(engine: edgekiln.Engine, name: str) -> None:
    result = chat(engine.path, name)
    assert result.stdout == ""
    lines = said(result)
    for command in slash_commands.COMMANDS:
        assert sum(line.startswith(f"/{command.name} ") for line in lines) == 1
    assert "/quit, /bye" in result.stderr


def test_system(engine: edgekiln.Engine) -> None:
    result = chat(engine.path, "/system", "/system  be kind ", "/System", "hi", "/clear", "/system", '/system ""', "hi")
    assert said(result) == ["There is no system message.", "be kind", "be kind"]
    assert result.stdout == answers(engine, [("system", "be kind"), ("user", "hi")], [("user", "hi")])
    result = chat(engine.path, "/clear", "/system", options=("--system", "be kind"))
    assert said(result) == ["be kind"]


def test_regen(engine: edgekiln.Engine) -> None:
    result = chat(engine.path, "/regen", "hi", "/regen", "/save", "/regen", options=())
    once = answers(engine, [("user", "hi")])
    assert result.stdout == 3 * once
    assert said(result) == [
        "Error: there is no answer to generate again: ask something first",
        "Error: /save needs a FILE, as in /save FILE",
    ]


def test_a_sampled_answer_can_differ(engine: edgekiln.Engine, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    result = chat(engine.path, "hi", *["/regen"] * 5, f"/save {file}", options=("--temperature", "2"))
    assert len(set(result.stdout.splitlines())) > 1
    assert [message["role"] for message in json.loads(file.read_text())["messages"]] == ["user", "assistant"]


def test_save_and_load(engine: edgekiln.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = chat(engine.path, "hi", "/save ~/my chat.json", "/clear", "/load '~/my chat.json'", "more")
    assert said(result) == ["2 messages saved.", "2 messages loaded."]
    saved = json.loads((tmp_path / "my chat.json").read_text())
    first = "".join(
        token.text for token in engine.generate(engine.tokenizer.encode_chat([saved["messages"][0]]), max_tokens=4)
    )
    assert saved == {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": first}]}
    turns = [("user", "hi"), ("assistant", first), ("user", "more")]
    assert result.stdout == answers(engine, turns[:1], turns)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("[", "is not JSON (Expecting value: line 1 column 2 (char 1)): give a chat that was saved"),
        ("{}", 'is no saved chat: it has neither a list of messages nor {"messages": [...]}'),
        ('[{"role": 1}]', "message 1 of "),
        ('[{"role": "user", "content": "x"}, 5]', "message 2 of "),
        (None, "No such file or directory"),
    ],
)
def test_files_that_are_no_chats(engine: edgekiln.Engine, tmp_path: Path, data: str | None, words: str) -> None:
    file = tmp_path / "chat.json"
    if data is not None:
        file.write_text(data)
    result = chat(engine.path, "hi", f"/load {file}", "/regen")
    assert result.stdout == 2 * answers(engine, [("user", "hi")])  # the conversation stays
    (line,) = said(result)
    assert line.startswith("Error: ")
    assert words in line


def test_files_that_are_not_written(engine: edgekiln.Engine, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("mine")
    result = chat(
        engine.path,
        *(f"/save {other}", f"/save {tmp_path}", f"/save {tmp_path}/no/chat.json", f"/save {engine.path}/engine.json"),
    )
    lines = said(result)
    assert lines[0] == f"Error: {other} exists and is no saved chat: give another name"
    assert [line.partition(": ")[2][:12] for line in lines[1:3]] == ["cannot write"] * 2
    assert len(lines) == 4
    assert other.read_text() == "mine"
    assert chat(engine.path, f"/save {tmp_path}/a.json", "hi", f"/save {tmp_path}/a.json").exit_code == 0
    assert len(json.loads((tmp_path / "a.json").read_text())["messages"]) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/celar", "there is no command /celar: did you mean /clear?"),
        ("/Regn", "there is no command /regn: did you mean /regen?"),
        ("/xyzzy now", "there is no command /xyzzy: /help lists those that there are"),
        ("/clear all", "/clear takes nothing after it, got 'all'"),
        ("/load", "/load needs a FILE, as in /load FILE"),
    ],
)
def test_what_is_no_command(engine: edgekiln.Engine, line: str, words: str) -> None:
    result = chat(engine.path, line)
    assert result.stdout == ""
    (error,) = said(result)
    assert error.startswith(f"Error: {words}")


@pytest.mark.parametrize(("line", "message"), [("/etc/hosts?", "/etc/hosts?"), (" /celar", "/celar"), ("/ 5", "/ 5")])
def test_messages_with_a_slash(engine: edgekiln.Engine, line: str, message: str) -> None:
    result = chat(engine.path, line)
    assert said(result) == []
    assert result.stdout == answers(engine, [("user", message)])


def test_a_byte_order_mark_and_crlf(engine: edgekiln.Engine) -> None:
    result = chat(engine.path, "\ufeffhi", "/exit", newline="\r\n")
    assert result.stdout == answers(engine, [("user", "hi")])
    result = chat(engine.path, "\ufeff/exit", "hi", newline="\r\n")
    assert result.stdout == ""


def test_every_command_is_found_by_its_names() -> None:
    for command in slash_commands.COMMANDS:
        for name in (command.name, *command.others):
            assert slash_commands.parse(f"/{name.upper()}") == (name, "")
    assert slash_commands.parse("/system two\nlines") == ("system", "two\nlines")
    assert slash_commands.parse("/a/b c") is None
    for line, name in (("/", ""), ("/clear-all", "clear-all"), ("/2 x", "2"), ("/hélp", "hélp")):
        parsed = slash_commands.parse(line)
        assert parsed is not None
        assert parsed[0] == name
    assert set(slash_commands.names()) >= {"/help", "/bye", "/regen"}
