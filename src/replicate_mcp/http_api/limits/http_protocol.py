"""Connections: clocks on what the other side of each owes, and room for new ones."""

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

from replicate_mcp.http_api.error_responses import HeadersTooLarge, body
from replicate_mcp.http_api.limits.config import Limits
from replicate_mcp.http_api.peers import Peer
from replicate_mcp.platform.sockets import RESET_ON_CLOSE

CHECKED_EVERY_SECONDS = 1.0

READ_BYTES = 64 * 1024
"""Most bytes that are read from a connection at once. asyncio reads 256 KiB by itself: with 200
senders of large bodies, one turn of its loop took 60 ms, of which every request needs several."""

DRAIN_PAUSE_SECONDS = 0.0005
MAX_DRAIN_PAUSE_SECONDS = 1.0
"""How long the rest of a refused body is not read after each piece, for each connection that has
one. So all of them together take a small part of the event loop: reading a piece takes about
0.06 ms, and 200 bodies of 16 MiB have been read after 25 s."""

PEER = "peer"
"""Under which the scope's state has the other end of a request's connection."""


class _CycleTransport:
    """The transport of a connection for one that answers a request: `close` lets a body arrive."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def close(self) -> None:
        """Close the connection, or only its sending half while more of the body arrives."""
        self._connection.close_after_body()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)


class Connection(H11Protocol):
    """One connection; the server looks at each every second, so a clock costs a request nothing.

    Args:
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
        """Whether no request of it is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_draining(self) -> bool:
        """Whether its request was answered before the whole body had arrived."""
        return self.conn.their_state is h11.SEND_BODY and self.is_idle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, in place of an idle one where there are too many."""
        super().connection_made(transport)
        with contextlib.suppress(AttributeError):  # Transports other than asyncio's own.
            transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        self.app_state = {**self.app_state, PEER: Peer(transport)}  # Of each request's scope.
        if len(self.connections) > self._limits.connections:
            others = [each for each in self.connections if isinstance(each, Connection)]
            idle = [each for each in others if each.is_idle and each is not self]
            longest = min(idle, key=lambda each: each._idle_since, default=self)
            longest.transport.abort()
            self.connections.discard(longest)  # At once: many come before that is carried out.

    def data_received(self, data: bytes) -> None:
        """Read on, and note whether a request's headers have begun and not ended."""
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
        """Read requests, and close after an answer only as `close_after_body` does."""
        super().handle_events()
        if self.cycle is not None:
            self.cycle.transport = cast(asyncio.Transport, _CycleTransport(self))

    def close_after_body(self) -> None:
        """Close, but while the body of the request arrives, only the half that sends.

        With data unread, the system would reset the connection, and clients that send their whole
        body first would not see the response.
        """
        if self.is_draining and not self._is_half_closed and self.transport.can_write_eof():
            self._is_half_closed = True
            self.transport.write_eof()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._draining.discard(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def resume_writing(self) -> None:
        """Go on: of what was too much to be held, nearly all was read."""
        self._unread_since = self.loop.time()
        super().resume_writing()

    def check(self, now: float) -> None:
        """Close it, if the other side has kept it waiting for too long."""
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
        """Tell what is wrong with a request that cannot be read."""
        error = sys.exception()
        if getattr(error, "error_status_hint", 400) == 431:
            self._refuse(HeadersTooLarge())
        else:
            self._refuse(HTTPException(400, "The request is not valid HTTP"))

    def _abort(self) -> None:
        """Close it with what the system holds for it: else that waits on for its reader."""
        connection = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # It may be gone by now.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

    def _close_slow(self) -> None:
        if self.conn.trailing_data[0]:
            self._refuse(HTTPException(408, "The request's headers came too slowly"))
        else:
            self.transport.close()

    def _refuse(self, error: HTTPException) -> None:
        """Answer without a route, where an answer still fits, and close."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            content = json.dumps(body("", error)).encode()
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
