"""Middleware that applies the request limits.

Each request is counted under its address and caller; its body is checked as it arrives, and its
answer as it leaves.
"""

import re
from collections.abc import Collection

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from replicate_mcp.auth import Access, HttpRequest
from replicate_mcp.errors import Unauthorized
from replicate_mcp.http_api.error_responses import error_response
from replicate_mcp.http_api.http_request import http_request_of, peer_address, with_http_request
from replicate_mcp.http_api.limits.config import MARK_BYTES, Limits
from replicate_mcp.http_api.limits.exceptions import (
    AmbiguousLength,
    HeadersTooLarge,
    TooLarge,
    TooManyRequests,
    TooManyValues,
    TooSlow,
)
from replicate_mcp.http_api.limits.in_flight import OpenRequest, OpenRequests
from replicate_mcp.http_api.limits.mcp_sessions import McpSessions
from replicate_mcp.http_api.limits.quota import quota_keys
from replicate_mcp.http_api.mcp_requests import MCP_PATHS, MESSAGES, check_mcp_headers

ALWAYS_ANSWERED = "/health"

PREFIX_HEADER = "x-forwarded-prefix"
"""Header with the proxy's path to this replica, to which HTTP+SSE clients send messages."""

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]{1,64}){1,4}")


class RequestLimitsMiddleware:
    """ASGI middleware that refuses requests that are too large, too slow or too many."""

    def __init__(
        self, app: ASGIApp, *, access: Access, limits: Limits, mcp_hosts: Collection[str] | None
    ) -> None:
        self._app = app
        self._mcp_hosts = mcp_hosts
        self._access = access
        self._limits = limits
        self._open = OpenRequests(limits)
        self._sessions = McpSessions(app, limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request within the limits, or answer with the refusal."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        scope = _without_its_last_slash(scope)
        began = False

        async def watched_send(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._within_limits(scope, receive, watched_send)
        except HTTPException as error:
            if not began:
                await error_response(scope["path"], error)(scope, receive, send)
        return None

    async def _within_limits(self, scope: Scope, receive: Receive, send: Send) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > (
            self._limits.header_bytes
        ):
            raise HeadersTooLarge
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            raise AmbiguousLength
        scope = with_http_request(_apply_proxy_headers(scope))
        if scope["path"] == ALWAYS_ANSWERED:
            return await self._app(scope, receive, send)
        caller = http_request_of(scope)
        headers = caller.headers
        names = quota_keys(peer_address(scope), caller.source, _caller(caller))
        with self._open.track(names) as request:
            mcp = scope["path"] in MCP_PATHS
            most = self._limits.mcp_body_bytes if mcp else self._limits.body_bytes
            length = headers.get("content-length", "")
            if length.isdigit() and int(length) > most:
                raise TooLarge(most)
            marks = self._limits.mcp_body_marks if mcp else self._limits.body_marks
            body = _Body(receive, request, self._limits, most, marks)
            # Only repeatable requests are refused here; any other has done its work already.
            repeatable = scope["method"] in ("GET", "HEAD") or (
                not mcp and "idempotency-key" in headers
            )
            answered = _Answer(send, request, self._limits, scope, is_refusable=repeatable)
            if mcp:
                scope = check_mcp_headers(scope, self._mcp_hosts)
                principal = self._access.principal(caller)
                await self._sessions.serve(scope, body.receive, answered.send, names, principal)
            else:
                await self._app(scope, body.receive, answered.send)
        return None


class _Body:
    """Receiver of a body of limited size within limited time, then of any other messages."""

    def __init__(
        self, receive: Receive, request: OpenRequest, limits: Limits, most: int, most_marks: int
    ) -> None:
        self._receive = receive
        self._request = request
        self._small = limits.small_body_bytes
        self._most = most
        self._most_marks = most_marks
        self._until = anyio.current_time() + limits.body_seconds
        self._seen, self._marks = 0, 0
        self._is_whole = False

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()
        with anyio.move_on_at(self._until):
            message = await self._receive()
            if message["type"] == "http.request":
                self._count(message.get("body", b""))
                self._is_whole = not message.get("more_body", False)
            return message
        raise TooSlow

    def _count(self, piece: bytes) -> None:
        counted = self._cost()
        self._seen += len(piece)
        if self._seen > self._most:
            raise TooLarge(self._most)
        self._marks += sum(map(piece.count, (b",", b"[", b"{")))
        if self._marks > self._most_marks:
            raise TooManyValues(self._most_marks)
        if (beyond := self._cost() - counted) > 0:
            self._request.reserve(beyond)

    def _cost(self) -> int:
        """Return the bytes counted for the body and its parsed values, less the uncounted part."""
        return max(0, self._seen + self._marks * MARK_BYTES - self._small)


class _Answer:
    """Sender of an answer in pieces; the request stays open until nearly all of it is read."""

    def __init__(
        self, send: Send, request: OpenRequest, limits: Limits, scope: Scope, *, is_refusable: bool
    ) -> None:
        self._send = send
        self._request = request
        self._piece = limits.small_body_bytes
        self._scope = scope
        self._is_refusable = is_refusable
        self._is_refused = False
        self._is_counted = False

    async def send(self, message: Message) -> None:
        if self._is_refused:
            return
        if message["type"] == "http.response.start":
            try:
                self._count(Headers(raw=message["headers"]).get("content-length"))
            except TooManyRequests as error:
                self._is_refused = True
                refused = error_response(self._scope["path"], error)
                await refused(self._scope, _nothing, self._send)
                return
        if len(message.get("body", b"")) > self._piece:
            await self._send_in_pieces(message)
        else:
            await self._send(message)

    def _count(self, length: str | None) -> None:
        self._is_counted = length is not None
        if (beyond := int(length or 0) - self._piece) > 0:
            self._request.reserve(beyond, is_refusable=self._is_refusable)

    async def _send_in_pieces(self, message: Message) -> None:
        body: bytes = message["body"]
        beyond = 0 if self._is_counted else len(body) - self._piece
        self._request.reserve(beyond, is_refusable=False)
        try:
            for start in range(0, len(body), self._piece):
                piece = body[start : start + self._piece]
                await self._send({**message, "body": piece, "more_body": True})
            await self._send({**message, "body": b""})  # Waits until there is room for more.
        finally:
            self._request.release(beyond)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _caller(request: HttpRequest) -> str:
    """Return what a request is counted under: its key or token, else its address."""
    try:
        return request.credential_mark() or request.source
    except Unauthorized:
        return request.source


def _without_its_last_slash(scope: Scope) -> Scope:
    """Return the request without the trailing slash of its path.

    A redirect would make the client send it again, possibly over plain http.
    """
    path: str = scope["path"]
    if path.endswith("/") and path not in ("/", MESSAGES):
        return {**scope, "path": path[:-1]}
    return scope


def _apply_proxy_headers(scope: Scope) -> Scope:
    """Return the request as a proxy in front of the server means it."""
    if scope["http_version"] == "1.0":
        # Some proxies, like nginx by default, send HTTP/1.0 with a `Host` of their own.
        scope = {**scope, "headers": [*scope["headers"], (b"via", b"1.0")]}
    prefix = Headers(scope=scope).get(PREFIX_HEADER, "").rstrip("/")
    if scope["path"] == "/sse" and _PREFIX.fullmatch(prefix):
        scope = {**scope, "root_path": prefix}
    return scope
