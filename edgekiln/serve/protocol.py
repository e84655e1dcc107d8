"""HTTP connections with limits that uvicorn has not: on their number, on slow clients and on the size of headers."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MAX_HEAD = 64 << 10  # bytes of the request line and headers; as much again may have been read before it is noticed


def limited_protocol(timeout_s: float, max_connections: int) -> type[HttpToolsProtocol]:
    """A class of connections.

    Args:
        timeout_s: seconds in which headers must arrive, and in which a client must read what is sent to it.
        max_connections: open connections, at most; further ones are closed.
    """

    class LimitedProtocol(HttpToolsProtocol):
        _head_bytes = 0
        _in_head = True
        _head_timer: asyncio.TimerHandle | None = None
        _write_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                transport.abort()
                return
            self._start_head_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._head_timer, self._write_timer):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def _start_head_timer(self) -> None:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(timeout_s, self.transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._in_head and not self.transport.is_closing():
                self._start_head_timer()
                self._head_bytes += len(data)
                if self._head_bytes > _MAX_HEAD:
                    self.send_400_response("Request headers are too long.")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head = True
            self._head_bytes = 0

        def on_headers_complete(self) -> None:
            self._in_head = False
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            super().on_headers_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            # The buffer is full: a client that does not read it must not hold it, and its answer, for ever.
            self._write_timer = self.loop.call_later(timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            if self._write_timer is not None:
                self._write_timer.cancel()
                self._write_timer = None
            super().resume_writing()

        def timeout_keep_alive_handler(self) -> None:
            self.transport.abort()

    return LimitedProtocol
