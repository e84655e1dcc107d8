"""Saved chats: JSON files of messages as OpenAI's API has them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekiln.api_arguments import Message
from edgekiln.engine.output_file import check_output_file, write_output_file
from edgekiln.errors import RequestError


def read_messages(path: Path) -> list[dict[str, Any]]:
    """The messages of a file: a JSON list, or the list `messages` of an object.

    Raises:
        RequestError: it cannot be read, or has no messages.
    """
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not JSON ({error!s:.80}): give a chat that was saved") from error
    messages = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(messages, list):
        raise RequestError(f'{path} is no saved chat: it has neither a list of messages nor {{"messages": [...]}}')
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RequestError(f"message {number} of {path} is not an object with a role: correct it")
    return messages


def write_messages(path: Path, messages: Sequence[Message], engines: Sequence[Path] = ()) -> None:
    """Write messages atomically, over nothing but another saved chat.

    Args:
        path: as the user named it.
        messages: JSON values.
        engines: engine directories whose files are refused.

    Raises:
        RequestError: there is another file, or it cannot be written.
    """
    check_output_file(path, engines)
    if path.is_file() and path.stat().st_size:
        try:
            read_messages(path)
        except RequestError as error:
            raise RequestError(f"{path} exists and is no saved chat: give another name") from error
    text = json.dumps({"messages": list(messages)}, indent=1, ensure_ascii=False)
    write_output_file(path, text + "\n", engines)
