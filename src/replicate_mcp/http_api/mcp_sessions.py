"""The sessions of MCP's older revisions: they stay when their requests have ended, and count."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from replicate_mcp.http_api.limits import Limits
from replicate_mcp.http_api.shares import Names, Shared
from replicate_mcp.mcp_server.server import STATELESS_SINCE

SESSION_HEADER = "mcp-session-id"


@dataclass(slots=True)
class _Session:
    names: Names
    seen: float
    open_requests: int = 0


class McpSessions:
    """Serves `/mcp` through the app, and refuses to begin more sessions than a caller may have."""

    def __init__(
        self, app: ASGIApp, limits: Limits, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._now = now
        self._idle_seconds = limits.session_idle_seconds
        self._shared = Shared(limits.sessions, "sessions are open")
        self._sessions: dict[str, _Session] = {}

    async def serve(self, scope: Scope, receive: Receive, send: Send, names: Names) -> None:
        """Serve one request.

        Raises:
            Busy: it would begin a session too many.
        """
        headers = Headers(scope=scope)
        known = headers.get(SESSION_HEADER)
        stateless = headers.get("mcp-protocol-version", "") >= STATELESS_SINCE
        if known is None and not stateless:
            self._forget_the_idle()
            self._shared.check(names)

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(known, scope["method"], names, message)
            await send(message)

        session = self._sessions.get(known or "")
        if session is None:
            return await self._app(scope, receive, watched_send)
        session.open_requests += 1
        try:
            await self._app(scope, receive, watched_send)
        finally:
            session.open_requests -= 1
            session.seen = self._now()
        return None

    def _note(self, known: str | None, method: str, names: Names, answer: Message) -> None:
        status: int = answer["status"]
        begun = Headers(raw=answer["headers"]).get(SESSION_HEADER)
        if known is not None:
            if status == 404 or (method == "DELETE" and status < 300):
                self._forget(known)
        elif begun is not None and status < 300:
            self._shared.add(names)  # It is there now, whatever there is room for.
            self._sessions[begun] = _Session(names, self._now())

    def _forget(self, name: str) -> None:
        if session := self._sessions.pop(name, None):
            self._shared.give_back(session.names)

    def _forget_the_idle(self) -> None:
        """Those that the SDK has forgotten by now."""
        since = self._now() - self._idle_seconds
        idle = [
            name
            for name, session in self._sessions.items()
            if not session.open_requests and session.seen < since
        ]
        for name in idle:
            self._forget(name)
