"""A client of OpenAI's completions that costs little beside the server: HTTP/1.1 and event streams on bare sockets."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Sample:
    """One streamed answer.

    Attributes:
        start: when the request was sent, in seconds of `time.perf_counter`.
        arrivals: when each piece of its text arrived.
        tokens: that were generated.
    """

    start: float
    arrivals: list[float] = field(default_factory=list)
    tokens: int = 0

    @property
    def first_s(self) -> float:
        """Seconds to the first piece."""
        return self.arrivals[0] - self.start

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between pieces."""
        return [after - before for before, after in zip(self.arrivals, self.arrivals[1:], strict=False)]


class Connection:
    """A connection for requests one after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to a port of this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    async def complete(self, body: dict[str, Any]) -> Sample:
        """POST to /v1/completions with `stream`.

        Raises:
            RuntimeError: the status is not 200.
        """
        payload = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        sample = Sample(time.perf_counter())
        self._writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        status = await self._reader.readline()
        while (await self._reader.readline()).strip():
            pass
        if b" 200 " not in status:
            raise RuntimeError(f"{status.decode().strip()}: {(await self._reader.read(500)).decode()}")
        async for event in self._events():
            data = json.loads(event)
            if data.get("usage"):
                sample.tokens = data["usage"]["completion_tokens"]
            if data.get("choices") and data["choices"][0].get("text"):
                sample.arrivals.append(time.perf_counter())
        return sample

    async def _events(self) -> Any:
        """The data of the events of a chunked body; ends with the body."""
        rest = b""
        while size := int((await self._reader.readline()).strip(), 16):
            rest += await self._reader.readexactly(size)
            await self._reader.readline()
            *events, rest = rest.replace(b"\r\n", b"\n").split(b"\n\n")
            for event in events:
                data = event.removeprefix(b"data: ")
                if event.startswith(b"data: ") and data != b"[DONE]":
                    yield data
        await self._reader.readline()

    def close(self) -> None:
        """Close it."""
        self._writer.close()


async def load(port: int, bodies: list[dict[str, Any]], streams: int) -> tuple[float, list[Sample]]:
    """Send requests from so many clients, each the next one when its last one has ended.

    Returns:
        Seconds from the first request to the end of the last one, and the answers.
    """
    queue = list(reversed(bodies))
    samples: list[Sample] = []

    async def client() -> None:
        while queue:
            # llama-server ends a connection after a stream.
            connection = await Connection.open(port)
            samples.append(await connection.complete(queue.pop()))
            connection.close()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(streams)))
    return time.perf_counter() - start, samples
