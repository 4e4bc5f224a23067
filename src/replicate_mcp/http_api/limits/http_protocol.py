"""HTTP connections with timeouts for slow clients, and a limit on their number."""

import asyncio
import contextlib
import json
import socket
import sys
from http import HTTPStatus
from typing import Any, cast

import h11
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from replicate_mcp.http_api.error_responses import error_body
from replicate_mcp.http_api.limits.config import Limits
from replicate_mcp.http_api.limits.exceptions import HeadersTooLarge
from replicate_mcp.http_api.peers import PEER, Peer
from replicate_mcp.platform.sockets import RESET_ON_CLOSE

CHECKED_EVERY_SECONDS = 1.0

READ_BYTES = 64 * 1024
"""Maximum bytes read from a connection at a time.

asyncio's default is 256 KiB: with 200 senders of large bodies, one turn of its loop took 60 ms, and
every request needs several turns.
"""

DRAIN_PAUSE_SECONDS = 0.0005
MAX_DRAIN_PAUSE_SECONDS = 1.0
"""Bounds of the pause in reading after each piece of a refused body.

The pause is `DRAIN_PAUSE_SECONDS` for each connection with such a body, so that all of them
together take a small part of the event loop: reading a piece takes about 0.06 ms, and 200 bodies of
16 MiB are read after 25 s.
"""


class _CycleTransport:
    """Transport for a request's cycle, whose `close` lets the rest of the body arrive."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def close(self) -> None:
        """Close the connection, or only its sending half while the body still arrives."""
        self._connection.close_after_body()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)


class Connection(H11Protocol):
    """One HTTP connection; the server checks its timeouts every second, at no cost to requests.

    Args:
        limits: the process's limits.
        draining: the server's connections on which the rest of a refused body arrives.
    """

    def __init__(
        self, *arguments: Any, limits: Limits, draining: set["Connection"], **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self._limits = limits
        self._draining = draining
        self._idle_since = self.loop.time()
        self._headers_since: float | None = self._idle_since
        self._unread_since = self._idle_since
        self._received_at = self._idle_since
        self._is_half_closed = False

    @property
    def is_idle(self) -> bool:
        """Whether no request of this connection is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_draining(self) -> bool:
        """Whether the request was answered before its whole body had arrived."""
        return self.conn.their_state is h11.SEND_BODY and self.is_idle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection; beyond the limit, close the longest idle one."""
        super().connection_made(transport)
        with contextlib.suppress(AttributeError):  # Other transports than asyncio's own.
            transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        self.app_state = {**self.app_state, PEER: Peer(transport)}  # Part of each request's scope.
        if len(self.connections) > self._limits.connections:
            others = [each for each in self.connections if isinstance(each, Connection)]
            idle = [each for each in others if each.is_idle and each is not self]
            longest = min(idle, key=lambda each: each._idle_since, default=self)
            longest.transport.abort()
            self.connections.discard(longest)  # Now: many connect before the abort takes effect.

    def data_received(self, data: bytes) -> None:
        """Process data, and track whether a request's headers are incomplete."""
        self._received_at = self.loop.time()
        if self._is_half_closed:
            self._unset_keepalive_if_required()
        else:
            super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._headers_since = None
        elif self._headers_since is None:
            self._headers_since = self.loop.time()
        if self.is_draining:
            self._draining.add(self)
            self.transport.pause_reading()
            pause = min(DRAIN_PAUSE_SECONDS * len(self._draining), MAX_DRAIN_PAUSE_SECONDS)
            self.loop.call_later(pause, self.transport.resume_reading)
        else:
            self._draining.discard(self)

    def handle_events(self) -> None:
        """Process requests, and let their cycles close with `close_after_body` only."""
        super().handle_events()
        if self.cycle is not None:
            self.cycle.transport = cast(asyncio.Transport, _CycleTransport(self))

    def close_after_body(self) -> None:
        """Close the connection, but only its sending half while the request's body arrives.

        With unread data, the system would reset the connection, and clients that send their whole
        body first would not see the response.
        """
        if self.is_draining and not self._is_half_closed and self.transport.can_write_eof():
            self._is_half_closed = True
            self.transport.write_eof()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from those with a refused body."""
        self._draining.discard(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def resume_writing(self) -> None:
        """Continue to send: the client has read nearly all of the buffered data."""
        self._unread_since = self.loop.time()
        super().resume_writing()

    def check(self, now: float) -> None:
        """Close the connection if the client has exceeded a timeout."""
        if self.transport.get_write_buffer_size() == 0:
            self._unread_since = now
        if now - self._unread_since > self._limits.unread_seconds:
            self._abort()
        elif self._headers_since is not None:
            if now - self._headers_since > self._limits.header_seconds:
                self._close_slow()
        elif self.is_draining and (
            now - max(self._idle_since, self._received_at) > self._limits.linger_seconds
            or now - self._idle_since > self._limits.linger_total_seconds
        ):
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed with the reason."""
        error = sys.exception()
        if getattr(error, "error_status_hint", 400) == 431:
            self._refuse(HeadersTooLarge())
        else:
            self._refuse(HTTPException(400, "The request is not valid HTTP"))

    def _abort(self) -> None:
        """Close the connection and discard the unsent data, which would outlive it otherwise."""
        connection = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # It may be closed already.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

    def _close_slow(self) -> None:
        if self.conn.trailing_data[0]:
            self._refuse(HTTPException(408, "The request's headers arrived too slowly"))
        else:
            self.transport.close()

    def _refuse(self, error: HTTPException) -> None:
        """Answer without a route, if an answer can still be sent, and close."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            content = json.dumps(error_body("", error)).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(content))),
                ("connection", "close"),
            ]
            status = error.status_code
            for event in (
                h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase),
                h11.Data(data=content),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
