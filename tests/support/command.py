"""The command line as a user calls it, in this process."""

import re
from pathlib import Path

from click.testing import CliRunner, Result

from edgekiln.cli import main

_STEP = re.compile(r"\[ *\d+\.\d s\] ")


def edgekiln(*arguments: str | Path) -> Result:
    """Run `edgekiln ARGUMENTS`."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def without_steps(stderr: str) -> list[str]:
    """Lines of stderr but those that say which step of a build began."""
    return [line for line in stderr.splitlines() if not _STEP.match(line)]


def error_line(result: Result) -> str:
    """The one line on stderr, apart from steps of a build, of a command that exits with 2."""
    assert result.exit_code == 2, result.output
    (line,) = without_steps(result.stderr)
    return line
