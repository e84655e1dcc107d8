"""`edgekiln chat` in a terminal: pastes, what is typed during an answer, and history."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import edgekiln

pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\].*?(\x07|\x1b\\)|[=>])")
_PROMPT = "\x1b[?2004h"
CTRL_C, CTRL_D, UP = b"\x03", b"\x04", b"\x1b[A"


class Terminal:
    """A pseudo-terminal in which a chat runs."""

    def __init__(self, engine: Path, environment: Mapping[str, str], *options: str) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgekiln", "chat", str(engine), "--temperature", "0", *options],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment},
            start_new_session=True,
            preexec_fn=lambda: _control(slave),  # noqa: PLW1509 - Ctrl-C reaches the process
        )
        self.slave = slave
        self.shown = ""
        self.until_prompt()

    def send(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def until(self, done: Callable[[str], bool], seconds: float = 60) -> str:
        """Read until the text since the last call is as it should be; returns it."""
        end = time.monotonic() + seconds
        while not done(text := _ESCAPES.sub("", self.shown).replace("\r", "")):
            assert time.monotonic() < end, text
            if select.select([self.master], [], [], 0.2)[0]:
                with contextlib.suppress(OSError):  # the end, on Linux
                    self.shown += os.read(self.master, 1 << 16).decode(errors="replace")
        self.shown = ""
        return text

    def until_prompt(self) -> str:
        """Read until pastes are awaited, which they are at a prompt; returns the text before it."""
        return self.until(lambda _text: _PROMPT in self.shown)

    def answer(self, keys: bytes) -> str:
        """Send keys, and return what is shown until the next prompt."""
        self.until(lambda _text: True)
        self.send(keys)
        return self.until(lambda _text: _PROMPT in self.shown)

    def close(self) -> int:
        status = self.process.wait(timeout=60)
        assert termios.tcgetattr(self.slave) == self.before
        return status


def _control(terminal: int) -> None:
    import fcntl

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


@pytest.fixture
def chat(tiny_engine: Path, tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*options: str, **environment: str) -> Terminal:
        started.append(Terminal(tiny_engine, {"XDG_STATE_HOME": str(tmp_path), **environment}, *options))
        return started[-1]

    yield start
    for terminal in started:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()
        os.close(terminal.master)
        os.close(terminal.slave)


def saved_messages(terminal: Terminal, file: Path) -> list[str]:
    """The messages of the user."""
    assert "saved." in terminal.answer(f"/save {file}\r".encode())
    messages = json.loads(file.read_text())["messages"]
    return [message["content"] for message in messages if message["role"] == "user"]


def test_a_paste_of_several_lines_is_one_message(chat: Callable[..., Terminal], tmp_path: Path) -> None:
    terminal = chat("--max-tokens", "2")
    terminal.send(b"\x1b[200~one\r\ntwo\n  three\x1b[201~")
    terminal.until(lambda text: "three" in text)
    terminal.answer(b"\r")
    terminal.send(b"four\x1b\rfive")  # Alt-Enter
    terminal.until(lambda text: "five" in text)
    terminal.answer(b"\r")
    assert saved_messages(terminal, tmp_path / "chat.json") == ["one\ntwo\n  three", "four\nfive"]
    terminal.send(b"/exit\r")
    assert terminal.close() == 0


def test_what_is_typed_during_an_answer(chat: Callable[..., Terminal], tmp_path: Path) -> None:
    terminal = chat("--max-tokens", "100000")
    terminal.send(b"hello\r")
    terminal.until(lambda text: len(text.partition("hello\n")[2]) > 20)
    terminal.send(b"QQQQ\rQQQQ\r")
    time.sleep(0.2)
    rest = terminal.until_prompt()
    assert "QQQQ" not in rest
    assert saved_messages(terminal, tmp_path / "chat.json") == ["hello"]
    terminal.send(CTRL_D)
    assert terminal.close() == 0


def test_ctrl_c(chat: Callable[..., Terminal], tmp_path: Path) -> None:
    terminal = chat("--max-tokens", "100000")
    assert "Ctrl-C stops an answer; /help lists commands" in terminal.answer(b"half a mess" + CTRL_C)
    terminal.send(b"hello\r")
    terminal.until(lambda text: len(text.partition("hello\n")[2]) > 5)
    terminal.answer(CTRL_C)
    terminal.answer(b"/clear\r")
    assert "Error" not in terminal.answer(b"hello\r" + CTRL_C)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.close() == 143


def test_history_of_an_earlier_chat(chat: Callable[..., Terminal], tmp_path: Path) -> None:
    file = tmp_path / "edgekiln" / "chat-history"
    terminal = chat("--max-tokens", "2")
    terminal.answer(b"first\r")
    terminal.send(b"/quit\r")
    assert terminal.close() == 0
    assert [json.loads(line) for line in file.read_text().splitlines()] == ["first", "/quit"]
    assert file.stat().st_mode & 0o777 == 0o600
    terminal = chat("--max-tokens", "2")
    assert "> first\n" in terminal.answer(UP + UP + b"\r")
    terminal.send(CTRL_D)
    assert terminal.close() == 0


@pytest.mark.parametrize(("options", "environment"), [(("--no-history",), {}), ((), {"EDGEKILN_NO_HISTORY": "1"})])
def test_no_history(
    chat: Callable[..., Terminal], tmp_path: Path, options: tuple[str, ...], environment: dict[str, str]
) -> None:
    terminal = chat("--max-tokens", "2", *options, **environment)
    terminal.answer(b"first\r")
    assert "> first\n" in terminal.answer(UP + b"\r")  # of this chat
    terminal.send(CTRL_D)
    assert terminal.close() == 0
    assert not (tmp_path / "edgekiln").exists()


def test_a_state_directory_that_cannot_be_written(chat: Callable[..., Terminal], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    terminal = chat("--max-tokens", "2", XDG_STATE_HOME=str(tmp_path / "file"))
    assert "rror" not in terminal.answer(b"first\r")
    assert "> first\n" in terminal.answer(UP + b"\r")
    terminal.send(CTRL_D)
    assert terminal.close() == 0


def test_answers_are_those_of_the_library(chat: Callable[..., Terminal], tiny_engine: Path) -> None:
    session = edgekiln.Engine.open(tiny_engine).session()
    text = "".join(token.text for token in session.ask("hello", max_tokens=3, temperature=0))
    terminal = chat("--max-tokens", "3")
    shown = terminal.answer(b"hello\r")
    assert text.strip() in shown.partition("> hello\n")[2]
    assert "There is no system message." in terminal.answer(b"/sys\t\r")  # Tab completes commands
    terminal.send(CTRL_D)
    assert terminal.close() == 0


def test_answers_into_a_pipe(tiny_engine: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "edgekiln", "chat", str(tiny_engine), "--max-tokens", "3"]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen(command, stdin=slave, stdout=-1, stderr=-1, bufsize=0, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = b""
        for keys in (b"hello\n", b"/exit\n"):
            while not said.endswith(b"> "):
                assert select.select([process.stderr], [], [], 60)[0], said
                said += process.stderr.read(4096)
            os.write(master, keys)
            said += b"."
        written = process.stdout.read().decode()
    os.close(slave)
    os.close(master)
    assert process.returncode == 0
    session = edgekiln.Engine.open(tiny_engine).session()
    text = "".join(token.text for token in session.ask("hello", max_tokens=3))
    assert written == text + "\n" * (not text.endswith("\n"))
    assert not (tmp_path / "edgekiln").exists()
