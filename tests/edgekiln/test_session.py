"""`Session`: the system message, answers anew, and saved chats."""

import json
from pathlib import Path
from typing import Any

import pytest

import edgekiln
from edgekiln.errors import RequestError

OPTIONS: dict[str, Any] = {"max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def engine(tiny_engine: Path) -> edgekiln.Engine:
    return edgekiln.Engine.open(tiny_engine)


def text(tokens: Any) -> str:
    return "".join(token.text for token in tokens)


def test_the_system_message(engine: edgekiln.Engine) -> None:
    session = engine.session(**OPTIONS)
    assert session.system is None
    first = text(session.ask("hello"))
    session.system = "be kind"
    assert session.messages[0] == {"role": "system", "content": "be kind"}
    assert len(session.messages) == 3
    session.system = "be brave"
    assert session.system == "be brave"
    assert [message["role"] for message in session.messages] == ["system", "user", "assistant"]
    assert text(session.ask("more")) == text(engine.chat(session.messages[:-1], **OPTIONS))
    session.clear()
    assert session.messages == [{"role": "system", "content": "be brave"}]
    session.system = None
    assert session.messages == []
    assert text(session.ask("hello")) == first
    session.clear()
    assert session.messages == []


def test_regenerate(engine: edgekiln.Engine) -> None:
    session = engine.session(**OPTIONS)
    with pytest.raises(RequestError, match="there is no answer to generate again: ask something first"):
        session.regenerate()
    first = text(session.ask("hello"))
    second = text(session.ask("and you?"))
    assert text(session.regenerate()) == second
    messages = [dict(message) for message in session.messages]
    assert len(messages) == 4
    other = text(session.regenerate(temperature=2.0, seed=5, max_tokens=9))
    assert session.messages[:3] == messages[:3]
    assert session.messages[3:] == [{"role": "assistant", "content": other}]
    alone = engine.chat(session.messages[:3], temperature=2.0, seed=5, max_tokens=9)
    assert other == text(alone)
    del session.messages[2:]
    assert text(session.regenerate()) == first


def test_regenerate_leaves_the_answer_where_there_is_no_other(engine: edgekiln.Engine) -> None:
    session = engine.session(**OPTIONS)
    text(session.ask("hello"))
    before = [dict(message) for message in session.messages]
    session.regenerate()  # not read
    tokens = session.regenerate()
    tokens.close()
    assert session.messages == before
    session.messages[0]["content"] = "a" * 1000
    with pytest.raises(RequestError, match="prompt has"):
        session.regenerate()
    assert len(session.messages) == 2


def test_the_last_message_of_the_user_is_answered(engine: edgekiln.Engine) -> None:
    session = engine.session(**OPTIONS)
    session.messages.append({"role": "user", "content": "hello"})
    answer = text(session.regenerate())
    assert answer == text(engine.chat(session.messages[:1], **OPTIONS))
    assert [message["role"] for message in session.messages] == ["user", "assistant"]


def test_saved_chats(engine: edgekiln.Engine, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    session = engine.session("be kind é", **OPTIONS)
    text(session.ask("hello"))
    session.save_messages(file)
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert saved == {"messages": session.messages}
    assert "é" in file.read_text(encoding="utf-8")
    other = engine.session(**OPTIONS)
    for contents in (saved, saved["messages"]):
        file.write_bytes(b"\xef\xbb\xbf" + json.dumps(contents).encode())
        other.clear()
        other.load_messages(str(file))
        assert other.messages == session.messages
    # Not `session`, whose answer has keys of decode steps: those of a prompt round differently.
    messages = [*session.messages, {"role": "user", "content": "more"}]
    assert text(other.ask("more")) == text(engine.chat(messages, **OPTIONS))
    other.save_messages(str(file))
    assert len(json.loads(file.read_text())["messages"]) == 5


def test_chats_that_the_template_refuses(engine: edgekiln.Engine, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_text('[{"role": "user", "content": 5}, {"role": "assistant"}]')
    session = engine.session(**OPTIONS)
    session.messages.append({"role": "user", "content": "hello"})
    try:
        session.load_messages(file)
    except RequestError:
        assert session.messages == [{"role": "user", "content": "hello"}]
    tokens = session.regenerate()
    next(tokens)
    for change in (lambda: session.load_messages(file), lambda: setattr(session, "system", "x")):
        with pytest.raises(RequestError, match="the session is generating an answer"):
            change()
    tokens.close()


def test_a_file_that_is_no_chat_is_not_replaced(engine: edgekiln.Engine, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(RequestError, match=r"notes.txt exists and is no saved chat: give another name"):
        engine.session().save_messages(file)
    assert file.read_text() == "mine"
    with pytest.raises(RequestError, match="is a file of the engine"):
        engine.session().save_messages(engine.path / "report.json")
