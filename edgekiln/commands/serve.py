"""`edgekiln serve`: an HTTP server with the API of OpenAI."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekiln.commands._engine import named_engine
from edgekiln.commands._options.common import pack_cache_option, threads_option, verbose_option
from edgekiln.errors import RequestError
from edgekiln.extras import requires_extra

if TYPE_CHECKING:
    from edgekiln.api import Engine

_KEY_VARIABLE = "EDGEKILN_API_KEY"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class NamedEngine(click.ParamType):
    """ENGINE or NAME=ENGINE, as the name and the path; ENGINE is a directory or the name of one in `engines`."""

    name = "engine"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (name, path)."""
        if not isinstance(value, str):
            return value
        name, separator, path = value.partition("=")
        if not separator or "/" in name:  # a directory may have = in its name
            found = named_engine(value)
            return Path(os.path.abspath(found)).name, found
        if not name:
            self.fail(f"give NAME=DIRECTORY, got {value!r:.60}", param, ctx)
        return name, named_engine(path)


class Size(click.ParamType):
    """Bytes, as in 512M or 4G."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return an int; a usage error where the text is no size."""
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"([0-9]{1,18})([KMG]?)(i?B)?", value.strip(), re.IGNORECASE | re.ASCII)
        if match is None or not int(match[1]):
            self.fail(f"give a number of bytes, as in 512M or 4G, got {value!r:.60}", param, ctx)
        return int(match[1]) * _UNITS[match[2].upper()]


@click.command("serve", short_help="Serve engines with the API of OpenAI.")
@click.argument("engines", nargs=-1, required=True, metavar="ENGINE...", type=NamedEngine())
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option(
    "--api-key", "api_keys", multiple=True, metavar="KEY", help=f"Key that requests must have  [or {_KEY_VARIABLE}]."
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Keys that requests may have, one a line.",
)
@click.option("--slots", type=click.IntRange(1, 1024), default=8, show_default=True, help="Answers at the same time.")
@click.option(
    "--queue",
    type=click.IntRange(0, 1 << 20),
    default=64,
    show_default=True,
    help="Answers that may wait for a slot; further ones are refused with status 429.",
)
@click.option(
    "--max-length",
    type=click.IntRange(2),
    metavar="N",
    help="Tokens of a prompt and its answer, at most  [the engine's].",
)
@click.option(
    "--kv-memory",
    type=Size(),
    metavar="SIZE",
    help="Bytes of an engine's KV cache, at most  [on CPUs half of the memory that is available].",
)
@click.option(
    "--prefix-cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep beginnings that several prompts had, such as system messages, in DIR.",
)
@click.option(
    "--prefix-cache-size", type=Size(), default="1G", show_default=True, metavar="SIZE", help="Bytes in DIR, at most."
)
@click.option("--memory", type=Size(), metavar="SIZE", help="Weights and KV caches of loaded engines, at most.")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="Tokens of an answer, at most.")
@click.option("--max-body", type=Size(), default="4M", show_default=True, metavar="SIZE", help="Bytes of a request.")
@click.option("--timeout", type=float, default=600, show_default=True, metavar="S", help="Seconds of a request.")
@click.option(
    "--drain", type=float, default=30, show_default=True, metavar="S", help="Seconds for running answers at the end."
)
@click.option(
    "--cors-origin", "cors_origins", multiple=True, metavar="ORIGIN", help="Web origin that may call; may be repeated."
)
@click.option("--log-prompts", is_flag=True, help="Log the text of prompts, too.")
@pack_cache_option
@threads_option
@verbose_option
def command(
    *,
    engines: tuple[tuple[str, Path], ...],
    host: str,
    port: int,
    api_keys: tuple[str, ...],
    api_key_file: Path | None,
    slots: int,
    queue: int,
    max_length: int | None,
    kv_memory: int | None,
    prefix_cache: Path | None,
    prefix_cache_size: int,
    memory: int | None,
    max_tokens: int | None,
    max_body: int,
    timeout: float,
    drain: float,
    cors_origins: tuple[str, ...],
    log_prompts: bool,
    pack_cache: bool,
    threads: int | None,
) -> None:
    """Serve ENGINEs, each ENGINE or NAME=ENGINE, to clients of OpenAI's API, and a chat page at /.

    The first engine is loaded at once, the others when a request names them. The log goes to stderr, one JSON object a
    line. SIGTERM and Ctrl-C let running answers finish; a second one does not.
    """
    with requires_extra("serve"):
        import httptools  # noqa: F401
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    from edgekiln.runtimes.scheduler.options import SchedulerOptions
    from edgekiln.serve.engines import EnginePool
    from edgekiln.serve.log import Log
    from edgekiln.serve.options import ServeOptions
    from edgekiln.serve.server import HttpServer, address, is_loopback, listen
    from edgekiln.serve.state import Server

    keys = (*api_keys, *_keys_of(api_key_file), *filter(None, [os.environ.get(_KEY_VARIABLE)]))
    options = ServeOptions(
        api_keys=keys,
        cors_origins=cors_origins,
        max_body=max_body,
        max_tokens=max_tokens,
        timeout_s=timeout,
        drain_s=drain,
        log_prompts=log_prompts,
        check_host=not keys and is_loopback(host),
    )

    def open_engine(path: Path) -> "Engine":
        from edgekiln.api import Engine

        return Engine.open(path, threads=threads, pack_cache=pack_cache)

    log = Log(log_prompts)
    scheduling = SchedulerOptions(
        slots=slots,
        max_waiting=queue,
        max_length=max_length,
        kv_memory=kv_memory,
        prefix_cache=prefix_cache,
        prefix_cache_size=prefix_cache_size,
    )
    pool = EnginePool(engines, scheduling, memory, open_engine, log)
    bound = listen(host, port)  # before the engine is loaded, as it may take long
    pool.load_first()
    server = HttpServer(Server(pool, options, log), bound)
    log.write("listening", url=address(bound), models=[name for name, _ in engines], api_key=bool(keys))
    if sys.stderr.isatty():
        click.echo(f"{address(bound)} shows a chat page; the API is at {address(bound)}/v1", err=True)
    server.run()


def _keys_of(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        keys = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8: write one key a line") from error
    keys = [key for key in keys if key and not key.startswith("#")]
    if not keys:
        raise RequestError(f"{path} holds no key: write one a line")
    return keys
