"""docs/cli.md is what `make docs` writes, and names every environment variable that edgekiln reads."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
assert _SPEC is not None
assert _SPEC.loader is not None
make_cli = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_cli)


def test_the_page_is_current() -> None:
    assert make_cli.PAGE.read_text(encoding="utf-8") == make_cli.page(), "run `make docs`"


def test_every_command_and_option_is_on_the_page() -> None:
    text = make_cli.PAGE.read_text(encoding="utf-8")
    for name in make_cli.COMMANDS:
        assert f"## edgekiln {name}\n" in text
    assert "--no-pack-cache" in text
    assert "## Exit status" in text


def test_environment_variables_are_listed() -> None:
    listed = ", ".join(make_cli.VARIABLES)
    for folder in ("edgekiln", "runtimes", "calib", "export"):
        for path in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r"\"(EDGEKILN_[A-Z_]+|ORT_[A-Z_]+)\"", path.read_text(encoding="utf-8")):
                assert name in listed, f"{name} of {path}"
