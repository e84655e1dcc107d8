"""Servers of tests, in a thread of this process or in one of their own."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import openai

from edgekiln.api import Engine
from edgekiln.runtimes.scheduler.options import SchedulerOptions
from edgekiln.serve.engines import EnginePool
from edgekiln.serve.log import Log
from edgekiln.serve.options import ServeOptions
from edgekiln.serve.server import HttpServer, address, listen
from edgekiln.serve.state import Server

LONG = {"max_tokens": 3000, "ignore_eos": True}
HELLO = [{"role": "user", "content": "Hello"}]


class RunningServer:
    """A server in a thread.

    Attributes:
        url: its address.
        server: its state.
        http: a client.
    """

    def __init__(self, http_server: HttpServer, server: Server, url: str, log: StringIO) -> None:
        self.url = url
        self.server = server
        self.http = httpx.Client(base_url=url, timeout=30)
        self._log = log
        self._http_server = http_server
        self._thread = threading.Thread(target=http_server.run, kwargs={"signals": False})
        self._thread.start()

    def client(self, **options: Any) -> openai.OpenAI:
        """OpenAI's own client, which repeats nothing."""
        return openai.OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, **options})

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """The response to a JSON body."""
        return self.http.post(path, json=body, **options)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of the log with an event."""
        lines = [json.loads(line) for line in self._log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]

    @property
    def busy(self) -> int:
        """Answers that wait or run."""
        return sum(stats.waiting + stats.running for _, stats in self.server.engines.stats())

    def begin_stop(self) -> None:
        """Ask the server to stop."""
        self._http_server.stop()

    def join(self, timeout: float = 30) -> None:
        """Wait until the server has stopped."""
        self._thread.join(timeout)
        assert not self._thread.is_alive()


@contextmanager
def running_server(
    *engines: tuple[str, Path],
    slots: int = 4,
    queue: int = 8,
    memory: int | None = None,
    kv_memory: int | None = None,
    **options: Any,
) -> Iterator[RunningServer]:
    """A server of engines, by name; `options` are those of `ServeOptions`."""
    stream = StringIO()
    choices = ServeOptions(**options)
    log = Log(choices.log_prompts, stream)
    pool = EnginePool(
        engines,
        SchedulerOptions(slots=slots, max_waiting=queue, kv_memory=kv_memory),
        memory,
        lambda path: Engine.open(path, threads=1),
        log,
    )
    pool.load_first()
    server = Server(pool, choices, log)
    bound = listen("127.0.0.1", 0)
    running = RunningServer(HttpServer(server, bound), server, address(bound), stream)
    try:
        wait_until(lambda: _answers(running))
        yield running
    finally:
        server.abort_all()
        running.begin_stop()
        running.join()
        running.http.close()


def _answers(running: RunningServer) -> bool:
    try:
        return running.http.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
