"""The chat templates of an engine directory: one file each, named as transformers names them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from edgekiln.engine.directory import CHAT_TEMPLATE_FILE

DEFAULT_TEMPLATE = "default"
_STEM, _SUFFIX = CHAT_TEMPLATE_FILE.removesuffix(".jinja") + ".", ".jinja"


def template_file(name: str) -> str:
    """The file of the chat template with a name."""
    return CHAT_TEMPLATE_FILE if name == DEFAULT_TEMPLATE else f"{_STEM}{quote(name, safe='')}{_SUFFIX}"


def write_chat_templates(directory: Path, templates: str | Mapping[str, str] | None) -> None:
    """Write chat_template.jinja, the default, and chat_template.NAME.jinja for every other name.

    Args:
        directory: of the engine.
        templates: a template, or several by name, or None.

    Raises:
        OSError: a file cannot be written.
    """
    named = {DEFAULT_TEMPLATE: templates} if isinstance(templates, str) else templates or {}
    for name, text in named.items():
        (directory / template_file(name)).write_text(text, encoding="utf-8")


def read_chat_templates(directory: Path, files: Iterable[str]) -> str | dict[str, str] | None:
    """The chat template of an engine, or several by name, or None.

    Args:
        directory: of the engine.
        files: its files, as engine.json lists them.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not UTF-8.
    """
    templates = {}
    for file in files:
        if file == CHAT_TEMPLATE_FILE:
            templates[DEFAULT_TEMPLATE] = (directory / file).read_text(encoding="utf-8")
        elif file.startswith(_STEM) and file.endswith(_SUFFIX):
            name = unquote(file[len(_STEM) : -len(_SUFFIX)])
            templates[name] = (directory / file).read_text(encoding="utf-8")
    return templates[DEFAULT_TEMPLATE] if list(templates) == [DEFAULT_TEMPLATE] else templates or None
