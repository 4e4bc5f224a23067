"""Counting of MCP sessions that the SDK still holds, derived from their requests and responses."""

from itertools import count

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from replicate_mcp.http_api.limits.config import Limits
from replicate_mcp.http_api.limits.exceptions import TooManyRequests
from replicate_mcp.http_api.limits.mcp_sessions import McpSessions
from replicate_mcp.http_api.limits.quota import quota_keys

IDLE_SECONDS = 60

NAMES = quota_keys("192.0.2.1", "192.0.2.1", "token:a")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Caller:
    """A client with up to two sessions, of an SDK that opens one for each request without one."""

    def __init__(self) -> None:
        self.clock = Clock()
        limits = Limits(sessions=8, session_idle_seconds=IDLE_SECONDS)
        self._sessions = McpSessions(self._sdk, limits, self.clock)
        self._numbers = count(1)
        self.unknown: set[str] = set()

    async def _sdk(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        session = request.headers.get("mcp-session-id") or f"s{next(self._numbers)}"
        if session in self.unknown:
            await Response(status_code=404)(scope, receive, send)
        elif request.headers.get("mcp-protocol-version", "") >= "2026":
            await Response()(scope, receive, send)
        else:
            await Response(headers={"mcp-session-id": session})(scope, receive, send)

    async def send(
        self,
        session: str | None = None,
        method: str = "POST",
        revision: str = "",
        principal: str = "token:a",
    ) -> str:
        """Return the session of the response."""
        sent = {"mcp-session-id": session, "mcp-protocol-version": revision}
        headers = [(name.encode(), value.encode()) for name, value in sent.items() if value]
        scope = {"type": "http", "method": method, "path": "/mcp", "headers": headers}
        answers: list[Message] = []

        async def record_message(message: Message) -> None:
            answers.append(message)

        async def receive() -> Message:
            return {"type": "http.request"}

        await self._sessions.serve(scope, receive, record_message, NAMES, principal)
        sent_back: bytes = dict(answers[0]["headers"]).get(b"mcp-session-id", b"")
        return sent_back.decode()


@pytest.fixture
def caller() -> Caller:
    return Caller()


async def test_session_is_counted_until_it_is_deleted(caller: Caller) -> None:
    first, _ = await caller.send(), await caller.send()
    with pytest.raises(TooManyRequests):
        await caller.send()
    await caller.send(first, "DELETE")
    await caller.send()
    with pytest.raises(TooManyRequests):
        await caller.send()


async def test_session_unknown_to_the_sdk_is_no_longer_counted(caller: Caller) -> None:
    first, _ = await caller.send(), await caller.send()
    caller.unknown = {first}
    await caller.send(first)
    await caller.send()


async def test_idle_session_is_no_longer_counted(caller: Caller) -> None:
    first, _ = await caller.send(), await caller.send()
    caller.clock.now = IDLE_SECONDS - 1
    await caller.send(first)
    caller.clock.now = IDLE_SECONDS + 1
    await caller.send()
    with pytest.raises(TooManyRequests):
        await caller.send()


async def test_session_requested_by_another_principal_stays_counted(caller: Caller) -> None:
    first, second = await caller.send(), await caller.send()
    caller.unknown = {first, second}  # The SDK's response to any caller that did not open it.
    for method in ("POST", "GET", "DELETE"):
        await caller.send(first, method, principal="unknown at 192.0.2.1")
    with pytest.raises(TooManyRequests):
        await caller.send()


async def test_stateless_requests_count_no_sessions(caller: Caller) -> None:
    for _ in range(9):
        assert await caller.send(revision="2026-07-28") == ""
    await caller.send()
    await caller.send()
