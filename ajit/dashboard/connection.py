"""A connection to ``ajit dash``: closed where no whole request comes in time, or nothing is read.

uvicorn has a time limit between two requests, which ends with the first byte of the next one, and
none before the first request, nor for a client that reads no response. So a client that opens as
many connections as there may be, and does nothing more, would shut everybody else out for good.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["REQUEST_SECONDS", "Connection"]

REQUEST_SECONDS = 5.0
"""What a client has for the head of a request, as uvicorn has it between two, and to read some of a
response that fills the socket. Pretty arbitrary."""


class Connection(H11Protocol):
    """One connection. Belongs to uvicorn's event loop."""

    _limit: Any = None
    _reading: Any = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait_for_request()

    def on_response_complete(self) -> None:
        """Begin to wait for the next one."""
        super().on_response_complete()
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._limit.cancel()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._reading = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It has."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
            super().resume_writing()

    def _wait_for_request(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = self.loop.call_later(REQUEST_SECONDS, self._close_if_waiting)

    def _close_if_waiting(self) -> None:
        cycle: Any = self.cycle  # None before the first request
        if cycle is None or cycle.response_complete:
            self.transport.close()  # after what is still to be sent, which may never be read
            self._limit = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)
