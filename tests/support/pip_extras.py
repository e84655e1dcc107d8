"""Check commands of pip in the documents without running them."""

import re
import tomllib
from pathlib import Path

_PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def check_pip(command: str) -> None:
    """Check that `pip install 'edgekiln[a,b]'` or `pip install -e '.[a,b]'` names extras that there are."""
    extras = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (named,) = re.findall(r"(?:edgekiln|\.)\[([\w,-]+)\]", command)
    assert set(named.split(",")) <= set(extras), command
