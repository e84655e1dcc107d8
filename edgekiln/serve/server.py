"""Runs a server: its socket, its signals, and how it ends."""

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Iterator

import uvicorn

from edgekiln.errors import EdgekilnError
from edgekiln.serve.app import create_app
from edgekiln.serve.protocol import limited_protocol
from edgekiln.serve.state import Server

_BACKLOG = 1024  # connections that wait until the server takes them
_POLL_S = 0.05


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that the port is known, and taken, before the server runs.

    Raises:
        EdgekilnError: the address is in use, or not of this machine.
    """
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        raise EdgekilnError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
    return bound


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches servers that listen on `host`."""
    try:
        return all(
            ipaddress.ip_address(found[4][0]).is_loopback
            for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        )
    except OSError:
        return False


def address(bound: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HttpServer:
    """Serves a `Server` on a socket until it is told to stop."""

    def __init__(self, server: Server, bound: socket.socket) -> None:
        """Nothing runs yet."""
        self._server = server
        self._socket = bound
        options = server.options
        config = uvicorn.Config(
            create_app(server),
            http=limited_protocol(options.header_timeout_s, options.max_connections),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=5,
        )
        self._uvicorn = _Uvicorn(config)
        self._stops = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, signals: bool = True) -> None:
        """Serve until `stop`; with `signals`, also until SIGTERM or SIGINT, whose second one ends answers at once."""
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            if signals:
                for number in (signal.SIGTERM, signal.SIGINT):
                    with contextlib.suppress(NotImplementedError):  # Windows
                        self._loop.add_signal_handler(number, self._stop)
            runner.run(self._serve())

    async def _serve(self) -> None:
        try:
            await self._uvicorn.serve(sockets=[self._socket])
        finally:
            # Where the port is lost, answers end too.
            await asyncio.to_thread(self._server.engines.close)
            self._server.log.write("stopped")

    def stop(self) -> None:
        """Take no more requests and end once the answers that run have ended, or the time for it. From any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._stops += 1
        if self._stops == 1:
            self._server.draining = True
            self._server.log.write("stopping", running=self._server.running)
            self._drain = asyncio.get_running_loop().create_task(self._finish())
        else:
            self._server.abort_all()

    async def _finish(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._server.options.drain_s
        while self._server.running and loop.time() < end and self._stops == 1:
            await asyncio.sleep(_POLL_S)
        self._server.abort_all()
        self._uvicorn.should_exit = True


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers, which exit with the signal's status."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield
