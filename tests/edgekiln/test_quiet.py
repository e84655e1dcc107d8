"""Warnings and log lines of libraries stay off stderr in every command, unless --verbose is given."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgekiln.cli import COMMANDS, main
from edgekiln.errors import EdgekilnError

TEXT = "The quick brown fox jumps over the lazy dog. " * 20
# A command, with the names of the fixtures' directories in capitals.
HEAVY = {
    "doctor": ("doctor",),
    "eval": ("eval", "ENGINE", "--text", "TEXT", "--window", "32", "--reference", "CHECKPOINT"),
    "compare": ("compare", "ENGINE", "CHECKPOINT", "--layers"),
    "triton": ("triton", "ENGINE", "-o", "OUT"),
    "quantize": ("quantize", "CHECKPOINT", "-o", "OUT", "--quant", "int4", "--quiet"),
    "engine": (
        "engine",
        "CHECKPOINT",
        "-o",
        "OUT",
        "--kv",
        "int8",
        "--eval-text",
        "TEXT",
        "--calib-samples",
        "2",
        "-q",
    ),
}


class NoisyLogger:
    """A library with a logger, a handler and filters of its own, as torch has."""

    def __init__(self) -> None:
        self.logger = logging.getLogger("a_library")
        self.logger.handlers = [logging.StreamHandler(sys.stderr)]

    def speak(self) -> None:
        warnings.simplefilter("always")
        for level in (logging.WARNING, logging.ERROR, logging.CRITICAL):
            self.logger.log(level, "a log line")
        warnings.warn("a warning", UserWarning, stacklevel=1)
        np.exp(np.float32(1e9))
        np.array([1.0]) / np.array([0.0])
        np.mean(np.array([]))


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `edgekiln inspect` end with an error after a library has printed."""

    def read_manifest(_directory: Path) -> None:
        NoisyLogger().speak()
        raise EdgekilnError("no luck")

    monkeypatch.setattr("edgekiln.commands._engine.find_engine", lambda name, *_: Path(name))
    monkeypatch.setattr("edgekiln.commands.inspect.read_manifest", read_manifest)


@pytest.mark.usefixtures("noise")
def test_libraries_are_quiet() -> None:
    before = (warnings.showwarning, logging.root.manager.disable)
    result = CliRunner().invoke(main, ["inspect", "engine"])
    assert result.stderr.splitlines() == ["Error: no luck"]
    assert (warnings.showwarning, logging.root.manager.disable) == before


@pytest.mark.usefixtures("noise")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arguments", [["--verbose", "inspect", "engine"], ["inspect", "engine", "--verbose"]])
def test_verbose_shows_what_libraries_print(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.stderr.count("a log line") == 3


@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "engine", "too many"], ["inspect", "--no-such-option"]])
def test_a_usage_error_leaves_the_process_as_it_was(arguments: list[str]) -> None:
    before = (warnings.showwarning, logging.root.manager.disable)
    assert CliRunner().invoke(main, arguments).exit_code == 2
    assert (warnings.showwarning, logging.root.manager.disable) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_option(command: str) -> None:
    assert "--verbose" in CliRunner().invoke(main, [command, "--help"]).stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", HEAVY)
def test_stderr_of_a_command_is_empty(command: str, tiny_engine: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    names = {
        "ENGINE": tiny_engine,
        "CHECKPOINT": tiny_checkpoint,
        "TEXT": tmp_path / "text.txt",
        "OUT": tmp_path / "out",
    }
    arguments = [str(names.get(part, part)) for part in HEAVY[command]]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHONWARNINGS")}
    done = subprocess.run(
        [sys.executable, "-m", "edgekiln", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
