"""Messages that are typed in a terminal: line editing, history, and pastes of several lines as one message.

Imported where stdin and stdout are a terminal, as prompt_toolkit takes a while to load.
"""

from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

from edgekiln.commands._chat.history import append_history, read_history
from edgekiln.commands._chat.slash_commands import names


class _FileHistory(History):
    """Messages of this chat, and of a file if there is one."""

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """The messages of the file, the newest first."""
        return reversed(read_history(self._path)) if self._path is not None else ()

    def store_string(self, string: str) -> None:
        """Add a message to the file."""
        if self._path is not None:
            append_history(self._path, string)


def terminal_reader(history: Path | None) -> "PromptSession[str]":
    """What reads messages, by its method `prompt`: EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession(
        "> ",
        history=_FileHistory(history),
        completer=WordCompleter(names(), sentence=True),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        reserve_space_for_menu=0,
        key_bindings=keys,
        prompt_continuation="  ",
        enable_suspend=True,
    )
