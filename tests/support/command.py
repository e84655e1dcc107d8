"""The command line as a user calls it, in this process."""

from pathlib import Path

from click.testing import CliRunner, Result

from edgekiln.cli import main


def edgekiln(*arguments: str | Path) -> Result:
    """Run `edgekiln ARGUMENTS`."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def error_line(result: Result) -> str:
    """The one line on stderr of a command that exits with 2."""
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line
