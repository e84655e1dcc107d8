"""The command line: exit statuses, one line per failure, and no heavy imports for --help."""

import errno
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekiln.cli import COMMANDS, main
from edgekiln.errors import EdgekilnError
from edgekiln.runtimes.ort.kernels import ISA_VARIABLE, installed_library

EDGEKILN = (sys.executable, "-m", "edgekiln")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `edgekiln inspect` raise."""

    def fail(error: BaseException) -> None:
        def read_manifest(_directory: Path) -> None:
            raise error

        monkeypatch.setattr("edgekiln.commands._engine.find_engine", lambda name, *_: Path(name))
        monkeypatch.setattr("edgekiln.commands.inspect.read_manifest", read_manifest)

    return fail


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (EdgekilnError("no luck: try again"), 2, "Error: no luck: try again"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "Error: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/some/file"), 2, "Error: /some/file: Permission denied"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (ZeroDivisionError("by zero"), 1, "Error: unexpected ZeroDivisionError: by zero (add --verbose to see where)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_failure_is_one_line_and_a_status(
    failing: Callable[[BaseException], None], error: BaseException, status: int, sentence: str
) -> None:
    failing(error)
    result = CliRunner().invoke(main, ["inspect", "engine"])
    assert result.exit_code == status
    assert result.stderr.splitlines() == [sentence]
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [["--verbose", "inspect", "engine"], ["inspect", "engine", "--verbose"]])
@pytest.mark.parametrize("error", [EdgekilnError("no luck"), ZeroDivisionError("by zero")], ids=str)
def test_verbose_adds_the_traceback(
    failing: Callable[[BaseException], None], arguments: list[str], error: Exception
) -> None:
    failing(error)
    result = CliRunner().invoke(main, arguments)
    assert "Traceback (most recent call last)" in result.stderr
    assert "in read_manifest" in result.stderr
    assert result.exit_code == (2 if isinstance(error, EdgekilnError) else 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bake"], "No such command 'bake'"),
        (["engine", "--quant", "int3"], "'int3' is not one of 'none', 'int8', 'int4'"),
        (["engine", "--group-size", "33"], "'33' is not one of '32', '64', '128'"),
        (["engine", "--target", "abacus"], "'abacus' is not"),
        (["engine", "--max-length", "0"], "0 is not in the range x>=1"),
        (["run"], "Missing argument 'ENGINE'"),
        (["run", "engine", "--max-tokens", "none"], "'none' is not a valid integer"),
        (["run", "engine", "--brave"], "No such option '--brave'"),
        (["run", "engine", "-p", "hello", "--system", "be kind"], "--system goes with --chat"),
        (["bench", "engine", "--gen-tokens", "1"], "1 is not in the range x>=2"),
        (["eval", "engine"], "Missing option '--text'"),
        (["eval", "engine", "--text", "file", "--window", "1"], "1 is not in the range x>=2"),
    ],
    ids=lambda value: " ".join(value).encode(errors="replace").decode() if isinstance(value, list) else "",
)
def test_a_usage_error_is_one_line_and_2(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # without `engines`
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert words in line
    assert "--help`)" in line


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert f"Usage: main {command} [OPTIONS]" in result.stdout
    listing = CliRunner().invoke(main, ["--help"]).stdout
    assert f"\n  {command} " in listing


def test_no_arguments_show_the_help() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2
    assert "Usage: main [OPTIONS] COMMAND" in result.stderr


def test_process_status_and_version(tmp_path: Path) -> None:
    run = [*EDGEKILN, "run", "no-such-engine", "-p", "x"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "Error: no engine directory at no-such-engine: build one with `edgekiln engine MODEL -o no-such-engine`\n"
    )
    for option in ("--version", "-V"):
        done = subprocess.run([*EDGEKILN, option], capture_output=True, text=True, check=True)
        first, second, third = done.stdout.splitlines()
        assert first == "edgekiln, version 0.1.0"
        assert f"onnxruntime {importlib.metadata.version('onnxruntime')}" in second
        assert f"; Python {platform.python_version()}, {platform.system()} {platform.machine()}" in second
        kernels = installed_library()
        assert kernels is not None
        assert third == f"CPU kernels: {kernels.instruction_set}"


def test_version_with_kernels_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_VARIABLE, "sse9")
    done = subprocess.run([*EDGEKILN, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[2].startswith(f"CPU kernels: {ISA_VARIABLE} must be ")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from edgekiln.cli import main\n"
        "for arguments in ['--help'], *([name, '--help'] for name in 'engine run chat bench eval inspect'.split()):\n"
        "    try: main(arguments)\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'rich', 'tokenizers', 'numpy', 'prompt_toolkit'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
