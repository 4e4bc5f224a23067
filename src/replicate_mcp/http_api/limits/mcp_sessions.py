"""Sessions of MCP's older revisions, which outlive their requests and are limited in number.

A session belongs to the principal that began it, on `/mcp` and on `/sse`: the SDK answers requests
of any other principal with 404, as it does for unknown sessions.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from replicate_mcp.http_api.limits.config import Limits
from replicate_mcp.http_api.limits.quota import Quota, QuotaKeys

SESSION_HEADER = "mcp-session-id"

ANSWERED_AND_RAISED = "Request validation failed"
"""Message of the error that the SDK raises at `/sse` after refusing a `Host` or `Origin`.

The refusal has been sent by then, so the error is not a failure.
"""


@dataclass(slots=True)
class _Session:
    names: QuotaKeys
    principal: str
    seen: float
    open_requests: int = 0


class McpSessions:
    """Server of MCP through the app, with a limit on each caller's sessions."""

    def __init__(
        self, app: ASGIApp, limits: Limits, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._now = now
        self._idle_seconds = limits.session_idle_seconds
        self._shared = Quota(limits.sessions, "sessions are open")
        self._sessions: dict[str, _Session] = {}

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, names: QuotaKeys, principal: str
    ) -> None:
        """Serve one request.

        Args:
            scope: the request's ASGI scope.
            receive: receives the request's body.
            send: sends the answer.
            names: the keys that the request is counted under.
            principal: the identifier of the request's caller.

        Raises:
            TooManyRequests: the request would begin a session over the limit.
        """
        scope = {**scope, "user": _user(principal)}
        if scope["path"] != "/mcp":
            return await self._serve_sse(scope, receive, send)
        headers = Headers(scope=scope)
        revision = headers.get("mcp-protocol-version")
        if revision is not None and revision not in HANDSHAKE_PROTOCOL_VERSIONS:
            # This revision has no sessions: the request must not refer to one.
            return await self._app(_without_session(scope), receive, send)
        known = headers.get(SESSION_HEADER)
        if known is None:
            self._forget_the_idle()
            self._shared.check(names)
        session = self._sessions.get(known or "")
        if session is not None and session.principal != principal:
            session = None  # Requests of other principals do not affect it.

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                if known is None:
                    self._note_begun(names, principal, message)
                elif session is not None:
                    self._note_ended(known, scope["method"], message)
            await send(message)

        if session is None:
            return await self._app(scope, receive, watched_send)
        session.open_requests += 1
        try:
            await self._app(scope, receive, watched_send)
        finally:
            session.open_requests -= 1
            session.seen = self._now()
        return None

    async def _serve_sse(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except ValueError as error:
            if str(error) != ANSWERED_AND_RAISED:
                raise

    def _note_begun(self, names: QuotaKeys, principal: str, answer: Message) -> None:
        begun = Headers(raw=answer["headers"]).get(SESSION_HEADER)
        if begun is not None and answer["status"] < 300:
            self._shared.add(names)  # The session exists now, even if it exceeds the quota.
            self._sessions[begun] = _Session(names, principal, self._now())

    def _note_ended(self, known: str, method: str, answer: Message) -> None:
        status: int = answer["status"]
        if status == 404 or (method == "DELETE" and status < 300):
            self._forget(known)

    def _forget(self, name: str) -> None:
        if session := self._sessions.pop(name, None):
            self._shared.give_back(session.names)

    def _forget_the_idle(self) -> None:
        """Remove the sessions that the SDK has ended as idle."""
        since = self._now() - self._idle_seconds
        idle = [
            name
            for name, session in self._sessions.items()
            if not session.open_requests and session.seen < since
        ]
        for name in idle:
            self._forget(name)


def _user(principal: str) -> AuthenticatedUser:
    """Return the principal as the SDK needs it to recognise a session's owner."""
    return AuthenticatedUser(AccessToken(token=principal, client_id=principal, scopes=[]))


def _without_session(scope: Scope) -> Scope:
    name = SESSION_HEADER.encode()
    return {**scope, "headers": [each for each in scope["headers"] if each[0].lower() != name]}
