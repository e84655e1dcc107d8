"""`edgekiln chat`: the conversation, and Ctrl-C, which stops an answer without ending the program."""

import builtins
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgekiln import runtimes
from edgekiln.cli import main
from edgekiln.engine.directory import CHAT_TEMPLATE_FILE, ENGINE_FILE
from edgekiln.engine.manifest import read_manifest, write_manifest
from edgekiln.runtimes.generate.answer import Token
from edgekiln.runtimes.generate.conversation import Conversation
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
from edgekiln.runtimes.text.tokenizer import Tokenizer

MAX_TOKENS = 6


def chat(engine: Path, *lines: str, options: tuple[str, ...] = ()) -> Result:
    command = ["chat", str(engine), "--max-tokens", str(MAX_TOKENS), "--temperature", "0", *options]
    return CliRunner().invoke(main, command, input="".join(line + "\n" for line in lines))


class Scripted(Conversation):
    """A conversation that echoes every message three times, and stores the messages it was asked."""

    instances: list["Scripted"]
    interrupt_at: int | None = None

    def __init__(self, *arguments: object) -> None:
        self.system = arguments[2]
        self.messages = [{"role": "system", "content": ""}] if self.system else []
        self.asked: list[tuple[str, int]] = []
        self.instances.append(self)

    def ask(
        self,
        text: str,
        options: GenerateOptions | None = None,
        stats: SpeculationStats | None = None,
        chat: Mapping[str, Any] | None = None,
    ) -> Iterator[Token]:
        assert stats is not None
        stats.drafted, stats.accepted = 3, 2
        self.asked.append((text, len(self.messages)))
        self.messages.append({"role": "user", "content": text})
        for index in range(3):
            if index == self.interrupt_at:
                signal.raise_signal(signal.SIGINT)
            yield Token(0, index, f"{text}{index} ", None, None)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    class Fresh(Scripted):
        instances: list[Scripted] = []  # noqa: RUF012

    monkeypatch.setattr("edgekiln.runtimes.generate.conversation.Conversation", Fresh)
    return Fresh


def test_answers_are_those_of_the_library(tiny_engine: Path) -> None:
    tokenizer = Tokenizer.from_engine(tiny_engine, read_manifest(tiny_engine))
    conversation = Conversation(runtimes.open(tiny_engine), tokenizer, "be kind")
    expected = ""
    for line in ("hello", "and you?"):
        answer = "".join(token.text for token in conversation.ask(line, GenerateOptions(max_tokens=MAX_TOKENS)))
        expected += answer if answer.endswith("\n") else answer + "\n"
    result = chat(tiny_engine, "hello", "", "and you?", options=("--system", "be kind"))
    assert result.exit_code == 0, result.output
    assert result.stdout == expected


def test_exit_clear_and_system(tiny_engine: Path, scripted: type[Scripted]) -> None:
    result = chat(tiny_engine, "a", "b", "/clear", "c", "/exit", "d", options=("--system", "be kind"))
    (conversation,) = scripted.instances
    assert conversation.system == "be kind"
    assert conversation.asked == [("a", 1), ("b", 2), ("c", 1)]
    assert result.exit_code == 0
    assert result.stdout == "a0 a1 a2 \nb0 b1 b2 \nc0 c1 c2 \n"


def test_ctrl_c_stops_only_the_answer(tiny_engine: Path, scripted: type[Scripted]) -> None:
    scripted.interrupt_at = 1
    before = signal.getsignal(signal.SIGINT)
    result = chat(tiny_engine, "a", "b")
    assert result.exit_code == 0
    assert result.stdout == "a0 a1 \nb0 b1 \n"
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_at_the_prompt_prompts_again(
    tiny_engine: Path, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = iter([KeyboardInterrupt(), "a", KeyboardInterrupt(), EOFError()])

    def read(_prompt: str) -> str:
        event = next(events)
        if isinstance(event, BaseException):
            raise event
        return event

    monkeypatch.setattr(builtins, "input", read)
    result = chat(tiny_engine)
    assert result.exit_code == 0
    assert result.stdout == "a0 a1 a2 \n"
    assert result.stderr.count("/exit or Ctrl-D leaves") == 2


def test_stats_after_every_answer(tiny_engine: Path, scripted: type[Scripted]) -> None:
    lines = chat(tiny_engine, "a", "b", options=("--stats",)).stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("first token after ") and "; answer 3 tokens, " in line for line in lines)
    assert all(
        re.search(r"; drafted 3 tokens, 2 accepted \(67%\); [\d.]+ kB of weights read per token$", line)
        for line in lines
    )


def test_a_too_long_message_does_not_end_the_chat(tiny_engine: Path) -> None:
    holds = read_manifest(tiny_engine).architecture.max_length
    result = chat(tiny_engine, "hello " * holds, "hello")
    alone = chat(tiny_engine, "hello")
    assert result.exit_code == 0
    assert result.stdout == alone.stdout
    line, mark = result.stderr.splitlines()
    assert mark == f"[cut at --max-tokens {MAX_TOKENS}: raise it for a longer answer]"
    assert line.startswith("Error: prompt has ")
    assert "/clear begins a new conversation" in line


def test_engine_without_a_chat_template(tiny_engine: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    for path in tiny_engine.iterdir():
        if path.name not in (CHAT_TEMPLATE_FILE, ENGINE_FILE):
            os.link(path, engine / path.name)
    manifest = read_manifest(tiny_engine)
    write_manifest(engine, **{name: value for name, value in manifest if name != "files"})
    result = chat(engine, "hello")
    assert result.exit_code == 2
    assert result.stderr == (f"Error: {engine} has no chat template: use `edgekiln run {engine}` with a plain prompt\n")


def test_sigint_does_not_end_the_program(tiny_engine: Path) -> None:
    command = [sys.executable, "-m", "edgekiln", "chat", str(tiny_engine), "--max-tokens", "3", "--stats"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        stdin, stderr = process.stdin, process.stderr
        assert stdin
        assert stderr

        def until(words: bytes, push: Callable[[], object]) -> None:
            seen = b""
            while words not in seen:
                assert process.poll() is None, seen
                if select.select([stderr], [], [], 0.5)[0]:
                    seen += stderr.read(4096)
                else:
                    push()

        for _ in range(2):
            until(b"first token after", lambda: stdin.write(b"hello\n"))
            until(b"Ctrl-D leaves", lambda: process.send_signal(signal.SIGINT))
        stdin.close()
        assert process.wait(timeout=60) == 0
