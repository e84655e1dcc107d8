"""The `edgekiln` command: one module per subcommand in `edgekiln.commands`, imported when it is called.

Every expected failure is one sentence on stderr. Exit status: 0 success, 1 a bug in edgekiln, 2 bad input or state,
129 SIGHUP, 130 Ctrl-C, 141 stdout was closed, 143 SIGTERM.
"""

import contextlib
import importlib
import io
import os
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import click

from edgekiln.commands._hints import choice_meant, did_you_mean, option_instead, shortened
from edgekiln.commands._options.common import is_verbose, verbose_option
from edgekiln.commands._version import show_version
from edgekiln.errors import EdgekilnError

COMMANDS = (
    "pull",
    "engine",
    "run",
    "chat",
    "serve",
    "bench",
    "eval",
    "compare",
    "list",
    "inspect",
    "report",
    "verify",
    "rm",
    "quantize",
    "doctor",
    "triton",
    "sdk",
    "completion",
)


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Failure(click.ClickException):
    """A sentence for the user and an exit status."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(shortened(_CONTROL.sub("?", message)))  # a path that the user gave may contain any
        self.exit_code = exit_code  # type: ignore[misc]  # a class attribute that click reads from the instance


class LazyGroup(click.Group):
    """Imports the module of a subcommand when it is called, and turns its errors into `Failure`."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Names of the subcommands, in the order of --help."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """The subcommand `name`; None if it does not exist."""
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"edgekiln.commands.{name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The subcommand that the arguments begin with; a usage error that names the one that was meant."""
        if args[0] not in COMMANDS and not ctx.resilient_parsing and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}.{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand and report its errors."""
        _open_closed_streams()
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # print '?' on a terminal without UTF-8
        with _failures(ctx):
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


@contextlib.contextmanager
def _failures(ctx: click.Context) -> Iterator[None]:
    try:
        yield
    except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):
        raise
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else ctx.command_path
        message = error.format_message() + choice_meant(error) + option_instead(error)
        raise Failure(f"{message.rstrip('.')} (see `{path} --help`)") from error
    except click.ClickException as error:
        raise Failure(error.format_message()) from error
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted", err=True)
        ctx.exit(130)
    except BrokenPipeError:
        _discard_stdout()
        ctx.exit(141)
    except (EdgekilnError, OSError) as error:
        if is_verbose(ctx):
            traceback.print_exc()
        raise Failure(_message(error)) from error
    except Exception as error:
        if is_verbose(ctx):
            traceback.print_exc()
            ctx.exit(1)
        name = type(error).__name__
        raise Failure(f"unexpected {name}: {error} (add --verbose to see where)", exit_code=1) from error


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _open_closed_streams() -> None:
    """Put the null device in the place of streams that the caller closed, as with `>&-`.

    Otherwise the next file that is opened gets the number of stdout, and what libraries print.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115


def _discard_stdout() -> None:
    # The interpreter flushes stdout again at exit, which would raise a second time.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    *("-V", "--version"),
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show the versions of edgekiln, of what it runs on, and its CPU kernels.",
)
@verbose_option
def main() -> None:
    """Build quantized engines from Hugging Face language models, and run them on edge devices."""
