"""Python, the command line and the C API refuse the same in the same sentence: the table of support.refusals."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekiln.api import Engine
from edgekiln.errors import EdgekilnError
from support.command import edgekiln, error_line
from support.cpp_host import OK, Host
from support.fuzzing import is_sentence
from support.refusals import REFUSALS, Interface, Refusal


def cases(interface: Interface) -> Any:
    """The cases that can be written in an interface."""
    return pytest.mark.parametrize(
        "refusal", [case for case in REFUSALS if interface not in case.without], ids=lambda case: case.name
    )


@pytest.fixture
def engine(refusal: Refusal, tiny_engine: Path, tmp_path: Path) -> Path | str:
    """The engine of a case."""
    if refusal.path is not None:
        return refusal.path
    if refusal.damage is None:
        return tiny_engine
    copy = shutil.copytree(tiny_engine, tmp_path / "engine")
    refusal.damage(copy)
    return copy


@pytest.fixture(scope="module")
def loaded(tiny_engine: Path) -> Engine:
    return Engine.open(tiny_engine)


@pytest.fixture(scope="module")
def host(tiny_engine: Path) -> Iterator[Host]:
    with Host(tiny_engine) as host:
        yield host


def messages(refusal: Refusal) -> list[dict[str, str]] | None:
    """The prompt of a case, if it is a conversation."""
    prompt: Any = refusal.prompt
    is_chat = refusal.options.get("chat") or (isinstance(prompt, list) and prompt and isinstance(prompt[0], dict))
    return prompt if is_chat else None


def options(refusal: Refusal) -> dict[str, Any]:
    return {name: value for name, value in refusal.options.items() if name != "chat"}


@cases("python")
def test_python(refusal: Refusal, engine: Path | str, loaded: Engine) -> None:
    def refused() -> None:
        opened = Engine.open(engine, **refusal.open) if refusal.is_of_opening else loaded
        chat: Any = messages(refusal)
        if chat is None:
            opened.generate(refusal.prompt, **options(refusal))
        else:
            opened.chat(chat, **options(refusal))

    with pytest.raises(EdgekilnError) as caught:
        refused()
    assert str(caught.value) == refusal.expected(engine)
    assert is_sentence(str(caught.value))


@cases("cli")
def test_command_line(refusal: Refusal, engine: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # without `engines`
    arguments: list[str] = []
    for name, value in {**refusal.open, **options(refusal)}.items():
        for item in value if isinstance(value, list) else [value]:
            arguments += [f"--{name.replace('_', '-')}", str(item)]
    chat = messages(refusal)
    prompt = refusal.prompt if chat is None else chat[-1]["content"]
    assert isinstance(prompt, str)
    result = edgekiln("run", engine, "-p", prompt, *(["--chat"] if chat else []), *arguments)
    assert error_line(result) == f"Error: {refusal.expected(engine)}"
    assert not result.stdout


@cases("c")
def test_c(refusal: Refusal, engine: Path | str, host: Host) -> None:
    if refusal.is_of_opening:
        with Host(engine, **refusal.open) as own:
            reply = own.hello if own.hello["status"] != OK else ask(own, refusal)
    else:
        reply = ask(host, refusal)
    assert reply["status"] != OK
    assert reply["error"] == refusal.expected(engine, "c")


def ask(host: Host, refusal: Refusal) -> dict[str, Any]:
    chat = messages(refusal)
    prompt: dict[str, Any] = {"messages": chat} if chat is not None else {"ids": refusal.prompt}
    if isinstance(refusal.prompt, str):
        prompt = {"text": refusal.prompt}
    return host.ask(**prompt, **options(refusal))
