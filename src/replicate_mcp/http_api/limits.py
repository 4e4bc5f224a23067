"""Limits at the edge: how large a body may be, how slowly it may come, how much is open at once."""

import anyio
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY_BYTES = 16 * 1024 * 1024
"""Enough for a thousand tasks, or for some input images as data URIs."""

MOST_HEADER_BYTES = 32 * 1024

BODY_SECONDS = 60.0
"""How long a body may take to arrive."""

MOST_OPEN = 2_000
"""Requests open at once, in all."""


class _TooLarge(HTTPException):
    """Raised where the body is read; a framework hands it on as it is, or answers with it."""

    def __init__(self) -> None:
        super().__init__(413, f"The request's body is over {MOST_BODY_BYTES // 1024 // 1024} MiB")


class _TooSlow(HTTPException):
    def __init__(self) -> None:
        super().__init__(408, "The request's body came too slowly")


class Limits:
    """ASGI middleware that refuses what is too large, too slow, or too much."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, within the limits."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if self._open >= MOST_OPEN:
            return await _refuse(scope, receive, send, 503, "Too much is going on: try again.")
        self._open += 1
        try:
            await self._within_limits(scope, receive, send)
        finally:
            self._open -= 1
        return None

    async def _within_limits(self, scope: Scope, receive: Receive, send: Send) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADER_BYTES:
            return await _refuse(scope, receive, send, 431, "The request's headers are too large.")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > MOST_BODY_BYTES:
            return await _refuse(scope, receive, send, 413, f"{_TooLarge().detail}.")
        began = False

        async def watched_send(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._app(scope, _limited(receive), watched_send)
        except (_TooLarge, _TooSlow) as error:
            if not began:
                await _refuse(scope, receive, send, error.status_code, f"{error.detail}.")
        return None


def _limited(receive: Receive) -> Receive:
    """Receives a body of limited size, in limited time; after it, whatever comes."""
    seen, whole, until = 0, False, anyio.current_time() + BODY_SECONDS

    async def limited() -> Message:
        nonlocal seen, whole
        if whole:
            return await receive()
        with anyio.move_on_at(until):
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if seen > MOST_BODY_BYTES:
                    raise _TooLarge
            return message
        raise _TooSlow

    return limited


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    body = {"error": sentence, "error_code": "invalid_input", "retryable": status == 503}
    await JSONResponse(body, status)(scope, receive, send)
