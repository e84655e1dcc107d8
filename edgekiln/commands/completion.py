"""`edgekiln completion`: Tab completes commands, options, presets and engines."""

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from edgekiln.commands._options.common import verbose_option
from edgekiln.errors import RequestError

_PROGRAM = "edgekiln"
_VARIABLE = "_EDGEKILN_COMPLETE"
# Shell -> variable of the directory that its files are in, that directory in the home directory without the variable,
# the file, and what else is to do.
_PLACES = {
    "bash": (
        *("XDG_DATA_HOME", ".local/share", "bash-completion/completions/edgekiln"),
        "Start a new shell; bash reads the file where the package bash-completion is installed.",
    ),
    "zsh": (
        *("XDG_DATA_HOME", ".local/share", "zsh/site-functions/_edgekiln"),
        "Add `fpath=({directory} $fpath)` before `compinit` to ~/.zshrc if it is not there, and start a new shell.",
    ),
    "fish": (*("XDG_CONFIG_HOME", ".config", "fish/completions/edgekiln.fish"), "Start a new shell."),
}


@click.command("completion", short_help="Complete commands in a shell.")
@click.argument("shell", type=click.Choice(tuple(_PLACES)))
@click.option("--install", is_flag=True, help="Write the script to where the shell looks for it.")
@verbose_option
def command(*, shell: str, install: bool) -> None:
    """Print the script with which SHELL completes edgekiln's commands, options, presets and engines."""
    script = _script(shell)
    if not install:
        click.echo(script)
        return
    variable, default, name, next_step = _PLACES[shell]
    base = os.environ.get(variable, "")
    path = (Path(base) if os.path.isabs(base) else _home() / default) / name
    data = f"{script}\n".encode()
    try:
        if path.is_file() and path.read_bytes() == data:
            click.echo(f"{path} is there already.")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror}, give another directory by ${variable}") from error
    click.echo(f"{path} is written. {next_step.format(directory=path.parent)}")


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise RequestError("there is no home directory: set HOME") from error


def _script(shell: str) -> str:
    completion = get_completion_class(shell)
    assert completion is not None
    # The scripts are the same for all commands; `source` would start bash to check its version.
    generator = completion(click.Command(_PROGRAM), {}, _PROGRAM, _VARIABLE)
    script = (generator.source_template % generator.source_vars()).strip()
    return script.replace('string split ","', 'string split -m 1 ","')  # fish would cut a description at its comma
