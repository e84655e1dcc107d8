"""Links in the documents resolve, and the commands and options that they show exist."""

import re
from pathlib import Path

import click
import pytest

from edgekiln.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# The changelog names options that are gone.
CURRENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
# A command in a code block or span, up to the end of the line, a comment, or the end of the span.
COMMAND = re.compile(r"\bedgekiln ([a-z]+)((?: [^`\n#]*)?)")
OPTION = re.compile(r"(?<=\s)--?[a-z][a-z-]*")


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings."""
    headings = HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_resolve(document: Path) -> None:
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert name.startswith("http") or target.exists(), link
        assert not anchor or name.startswith("http") or anchor in anchors(target), link


@pytest.mark.parametrize("document", CURRENT, ids=lambda path: path.name)
def test_options_of_commands_exist(document: Path) -> None:
    context = click.Context(main)
    for name, arguments in COMMAND.findall(document.read_text(encoding="utf-8")):
        command = main.get_command(context, name)
        if command is not None:
            options = {
                option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
            }
            assert set(OPTION.findall(arguments)) <= options | {"--help"}, f"edgekiln {name}{arguments}"
