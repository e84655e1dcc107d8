"""`edgekiln completion`: the scripts, where they are installed, and what they complete."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekiln.calib.presets import PRESETS
from edgekiln.cli import COMMANDS, main
from support.command import edgekiln, error_line

SHELLS = {
    "bash": ("XDG_DATA_HOME", ".local/share", "bash-completion/completions/edgekiln"),
    "zsh": ("XDG_DATA_HOME", ".local/share", "zsh/site-functions/_edgekiln"),
    "fish": ("XDG_CONFIG_HOME", ".config", "fish/completions/edgekiln.fish"),
}


def completed(*words: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bash offers for the last word."""
    monkeypatch.setenv("_EDGEKILN_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["edgekiln", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    result: Result = CliRunner().invoke(main, [], prog_name="edgekiln")
    return result.stdout.split()


@pytest.mark.parametrize("shell", SHELLS)
def test_printing(shell: str) -> None:
    result = edgekiln("completion", shell)
    assert result.exit_code == 0
    assert f"_EDGEKILN_COMPLETE={shell}_complete" in result.stdout
    assert "_edgekiln_completion" in result.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_installing(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variable, default, name = SHELLS[shell]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(variable, raising=False)
    script = edgekiln("completion", shell).stdout
    path = tmp_path / default / name
    result = edgekiln("completion", shell, "--install")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{path} is written. ")
    assert path.read_text() == script
    assert edgekiln("completion", shell, "--install").stdout == f"{path} is there already.\n"
    path.write_text("old")
    assert edgekiln("completion", shell, "--install").stdout.startswith(f"{path} is written. ")
    assert path.read_text() == script
    monkeypatch.setenv(variable, str(tmp_path / "own"))
    edgekiln("completion", shell, "--install")
    assert (tmp_path / "own" / name).read_text() == script


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    line = error_line(edgekiln("completion", "bash", "--install"))
    assert line.startswith(f"Error: cannot write {tmp_path}/file/bash-completion/completions/edgekiln: ")
    assert line.endswith(", give another directory by $XDG_DATA_HOME")
    assert "Did you mean 'fish'? (see" in error_line(edgekiln("completion", "fisch"))


def test_commands_options_and_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed("", monkeypatch=monkeypatch) == [f"plain,{name}" for name in COMMANDS]
    assert completed("run", "e", "--max-t", monkeypatch=monkeypatch) == ["plain,--max-tokens"]
    assert completed("engine", "--quant", "", monkeypatch=monkeypatch) == [f"plain,{name}" for name in PRESETS]


def test_engines(tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "engines" / "other").mkdir(parents=True)
    (tmp_path / "engines" / "tiny").symlink_to(tiny_engine)
    (tmp_path / ".hidden").symlink_to(tiny_engine)
    for start in ("engines/", "engines/t", f"{tmp_path}/engines/"):
        prefix = start.removesuffix("t")
        assert completed("run", start, monkeypatch=monkeypatch) == [f"plain,{prefix}tiny"]
    for start in ("eng", "engines/o", "nowhere/"):
        assert completed("run", start, monkeypatch=monkeypatch) == [f"dir,{start}"]
    for start in ("", "ti"):  # also by name; bash would drop it for directories beside it
        assert completed("run", start, monkeypatch=monkeypatch) == ["plain,tiny"]


def in_shell(shell: str, script: str, directory: Path) -> list[str]:
    """The lines that a script prints after edgekiln's own, in a directory where `edgekiln` can be called."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = directory / "bin" / "edgekiln"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c \'from edgekiln.cli import main; main(prog_name="edgekiln")\' "$@"\n'
    )
    program.chmod(0o755)
    script = f"{edgekiln('completion', shell).stdout}\n{script}\n"
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(directory)}
    done = subprocess.run(
        [shell, "-c", script], capture_output=True, text=True, env=environment, check=True, cwd=directory
    )
    return done.stdout.splitlines()


@pytest.fixture
def directory(tiny_engine: Path, tmp_path: Path) -> Path:
    """A directory with the engine `tiny` in `engines`."""
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "tiny").symlink_to(tiny_engine)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "found"), [("comp", ["compare", "completion"]), ("run t", ["tiny"]), ("engine --quant int4-", None)]
)
def test_in_bash(words: str, found: list[str] | None, directory: Path) -> None:
    script = f"COMP_WORDS=(edgekiln {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
    script += '_edgekiln_completion edgekiln; printf "%s\n" "${COMPREPLY[@]}"'
    expected = [name for name in PRESETS if name.startswith("int4-")] if found is None else found
    assert in_shell("bash", script, directory) == expected


def test_in_zsh(directory: Path) -> None:
    # compadd and what calls it work in an editor of lines only; the functions here print what they are to add.
    script = """
compdef() { }
compadd() { print -l -- ${(P)@[-1]} }
_describe() { print -l -- ${(P)@[3]} }
_path_files() { print directories }
words=(edgekiln run t); CURRENT=3; _edgekiln_completion
words=(edgekiln run eng); CURRENT=3; _edgekiln_completion
words=(edgekiln ru); CURRENT=2; _edgekiln_completion
"""
    assert in_shell("zsh", script, directory) == ["tiny", "directories", "run:Answer one prompt, or a file of them."]


def test_in_fish(directory: Path) -> None:
    script = 'complete -C "edgekiln run t"; complete -C "edgekiln run eng"; complete -C "edgekiln ru"'
    found = in_shell("fish", script, directory)
    assert found == ["tiny", "engines/\tDirectory", "run\tAnswer one prompt, or a file of them."]
