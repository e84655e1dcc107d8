"""The file of what was typed in chats."""

import json
import os
from pathlib import Path

import pytest

from edgekiln.commands._chat.history import append_history, history_file, read_history


@pytest.mark.parametrize(
    ("wanted", "environment", "expected"),
    [
        (None, {"HOME": "/h"}, "/h/.local/state/edgekiln/chat-history"),
        (None, {"HOME": "/h", "XDG_STATE_HOME": "/s"}, "/s/edgekiln/chat-history"),
        (None, {"HOME": "/h", "XDG_STATE_HOME": "not/absolute"}, "/h/.local/state/edgekiln/chat-history"),
        (None, {"HOME": "/h", "EDGEKILN_NO_HISTORY": "1"}, None),
        (None, {"HOME": "/h", "EDGEKILN_NO_HISTORY": "0"}, "/h/.local/state/edgekiln/chat-history"),
        (None, {"HOME": "/h", "EDGEKILN_NO_HISTORY": ""}, "/h/.local/state/edgekiln/chat-history"),
        (True, {"HOME": "/h", "EDGEKILN_NO_HISTORY": "1"}, "/h/.local/state/edgekiln/chat-history"),
        (False, {"HOME": "/h"}, None),
    ],
)
def test_where_it_is(wanted: bool | None, environment: dict[str, str], expected: str | None) -> None:
    assert history_file(wanted, environment) == (None if expected is None else Path(expected))


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does for a user without an entry
    assert history_file(None, {}) is None
    assert history_file(None, {"HOME": "x"}) is None
    assert history_file(None, {"XDG_STATE_HOME": "/s"}) == Path("/s/edgekiln/chat-history")


def test_messages_return_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "history"
    assert read_history(file) == []
    messages = ["one", "two\nlines", "é \u2028 \ud800", "", "/exit"]
    for message in messages:
        append_history(file, message)
    assert read_history(file) == messages
    file.write_bytes(b"not json\n5\n" + file.read_bytes() + b'"half')
    assert read_history(file) == messages


def test_old_messages_are_deleted(tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_text("".join(f"{json.dumps(str(i))}\n" for i in range(2001)))
    assert read_history(file) == [str(i) for i in range(1001, 2001)]
    assert file.read_text().count("\n") == 1000
    assert file.stat().st_mode & 0o777 == 0o600


def test_nothing_is_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    append_history(tmp_path / "file" / "history", "x")
    append_history(tmp_path, "x")
    assert read_history(tmp_path / "file" / "history") == read_history(tmp_path) == []
