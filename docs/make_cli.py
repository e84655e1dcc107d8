"""Write docs/cli.md from the commands themselves: `make docs`. A test fails where the file is not what this writes."""

import re
import sys
from pathlib import Path

import click

from edgekiln.cli import COMMANDS, main

PAGE = Path(__file__).with_name("cli.md")

INTRODUCTION = """# Command line

`make docs` writes this page from `edgekiln COMMAND --help`.

ENGINE is the directory of an engine, the name of one in `engines`, the beginning of such a name up to a hyphen, or the
model that it was built from: `smollm2-135m` is `engines/smollm2-135m-int8` where that is the only engine of the model
there. If several fit, or none does, the message names those that there are. `rm` takes directories and whole names
only.

MODEL is a Hugging Face directory, a hub id (`owner/name[@revision]`), a `.gguf` file or a directory of one, or
`smollm2-135m`.

Results go to stdout; progress, notes and errors to stderr. With `--json`, stdout is one JSON object.
"""

EXIT_STATUSES = {
    "0": "done",
    "1": 'a defect of edgekiln; or "no", from `compare --tolerance`, `doctor --target` and the question of `rm`',
    "2": "bad input or state, explained in one sentence on stderr",
    "129, 130, 143": "ended by SIGHUP, Ctrl-C, SIGTERM",
    "141": "the reader of stdout is gone",
}

VARIABLES = {
    "EDGEKILN_API_KEY": "`serve`: a key that requests must have, beside those of `--api-key`",
    "EDGEKILN_NO_HISTORY": "`chat`: 1 keeps no history of messages, as `--no-history`",
    "EDGEKILN_ISA": "instruction set of the CPU kernels, of those that `doctor` lists; by default the best",
    "HF_HOME, HF_HUB_CACHE": "where downloads are kept; by default `~/.cache/huggingface`",
    "HF_ENDPOINT": "address of the hub or of a mirror",
    "HF_TOKEN": "token for models that ask for a login; by default that of `hf auth login`",
    "HF_HUB_OFFLINE": "1: use what was downloaded before, and connect to nothing",
    "XDG_STATE_HOME": "where the history of `chat` is kept; by default `~/.local/state`",
    "XDG_CACHE_HOME": "where `edgekiln/` with synthetic calibration data is kept; by default `~/.cache`",
    "TMPDIR": "where builds that calibrate write a temporary engine",
    "ORT_DISABLE_TELEMETRY": "0: leave ONNX Runtime's telemetry on, which edgekiln turns off",
}


def page() -> str:
    """The text of docs/cli.md."""
    root = click.Context(main, info_name="edgekiln", **main.context_settings)
    parts = [INTRODUCTION, _table("command", "", _summaries(root)), *(_command(root, name) for name in COMMANDS)]
    parts.append("## Options of edgekiln itself\n\n" + _options(main, root))
    parts.append("## Exit status\n\n" + _table("status", "meaning", EXIT_STATUSES))
    variables = {", ".join(f"`{name}`" for name in names.split(", ")): text for names, text in VARIABLES.items()}
    parts.append("## Environment variables\n\n" + _table("variable", "meaning", variables))
    return "\n".join(parts)


def _summaries(root: click.Context) -> dict[str, str]:
    found = {}
    for name in COMMANDS:
        command = main.get_command(root, name)
        assert command is not None
        found[f"[`{name}`](#edgekiln-{name})"] = command.get_short_help_str(200)
    return found


def _command(root: click.Context, name: str) -> str:
    command = main.get_command(root, name)
    assert command is not None
    ctx = click.Context(command, info_name=name, parent=root, **command.context_settings)
    usage = " ".join(["edgekiln", name, *command.collect_usage_pieces(ctx)])
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", re.sub(r"\n +", "\n", command.help or "")).strip()
    return f"## edgekiln {name}\n\n```text\n{usage}\n```\n\n{text}\n\n{_options(command, ctx)}"


def _options(command: click.Command, ctx: click.Context) -> str:
    # Versions of click differ in whether arguments, which the usage and the text explain, have a record.
    parameters = (parameter for parameter in command.get_params(ctx) if isinstance(parameter, click.Option))
    records = (parameter.get_help_record(ctx) for parameter in parameters)
    return _table("option", "", {f"`{record[0]}`": record[1] for record in records if record})


def _table(first: str, second: str, rows: dict[str, str]) -> str:
    lines = [f"| {first} | {second} |", "| --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(text)} |" for name, text in rows.items()]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
