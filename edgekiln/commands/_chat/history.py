"""The file of messages that were typed, so that they can be called back in later chats.

A line is a JSON string. What goes wrong with the file, such as a directory that cannot be written, is no reason to stop
a chat: the messages are then remembered until its end.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from edgekiln.engine.temporary import temporary_file

VARIABLE = "EDGEKILN_NO_HISTORY"
_MOST = 1000  # messages that are kept


def history_file(wanted: bool | None, environment: Mapping[str, str]) -> Path | None:
    """The file, in the directory that the XDG specification has for such files; None without history.

    Args:
        wanted: the user's choice; None: as the variable EDGEKILN_NO_HISTORY says.
        environment: variables.
    """
    if not (environment.get(VARIABLE, "") in ("", "0") if wanted is None else wanted):
        return None
    state = environment.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        home = environment.get("HOME", "") or os.path.expanduser("~")
        if not os.path.isabs(home):
            return None
        state = os.path.join(home, ".local", "state")
    return Path(state) / "edgekiln" / "chat-history"


def read_history(path: Path) -> list[str]:
    """The messages, the oldest first; those beyond the last 1000 are deleted."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return []
    if len(lines) > 2 * _MOST:
        lines = lines[-_MOST:]
        with contextlib.suppress(OSError), temporary_file(path) as temporary:
            temporary.touch(0o600)
            temporary.write_bytes(b"\n".join(lines) + b"\n")
            temporary.replace(path)
    return [text for text in map(_text, lines[-_MOST:]) if text is not None]


def append_history(path: Path, text: str) -> None:
    """Add a message. Only the user may read the file."""
    line = json.dumps(text).encode() + b"\n"
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line)  # at once, so that lines of several chats do not mix
        finally:
            os.close(file)


def _text(line: bytes) -> str | None:
    try:
        text = json.loads(line)
    except ValueError:
        return None
    return text if isinstance(text, str) else None
