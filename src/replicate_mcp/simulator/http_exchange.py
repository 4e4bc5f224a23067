"""HTTP request and response, including the ways in which a response can fail."""

import asyncio
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from replicate_mcp.platform.sockets import RESET_ON_CLOSE
from replicate_mcp.simulator.engine.fault_injection import Fault
from replicate_mcp.simulator.problem_details import Problem

Headers = Sequence[tuple[bytes, bytes]]
_JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", b"application/problem+json")


@dataclass(frozen=True, slots=True)
class Answer:
    """HTTP response that has not been sent."""

    status: int
    body: bytes
    headers: Headers

    @classmethod
    def json(cls, content: object, status: int = 200, headers: Headers = ()) -> "Answer":
        """Return a JSON response."""
        return cls(status, json.dumps(content).encode(), (_JSON, *headers))

    @classmethod
    def problem(cls, problem: Problem) -> "Answer":
        """Return a response with a problem document."""
        body = json.dumps(problem.document).encode()
        return cls(problem.status, body, (_PROBLEM, *problem.headers))

    @classmethod
    def edge_error(cls, status: int) -> "Answer":
        """Return the error page of the CDN in front of Replicate, for statuses from 520."""
        page = f"<!DOCTYPE html><title>{status}</title><h1>Error {status}</h1>"
        return cls(status, page.encode(), ((b"content-type", b"text/html"),))

    def with_headers(self, headers: Headers) -> "Answer":
        """Return a copy of this response with more headers."""
        return Answer(self.status, self.body, (*headers, *self.headers))


class Exchange:
    """HTTP request with the means to respond to it."""

    __slots__ = ("_headers", "_send", "args", "fault", "method", "path", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        """ASGI callable that receives the rest of the request."""
        self._send = send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.args: tuple[str, ...] = ()
        """Groups that the route's pattern matched in the path."""
        self.fault: Fault | None = None
        """Fault of the response, although the request is carried out."""

    def header(self, name: bytes) -> bytes:
        """Return a request header by its lower-case name; empty if missing."""
        return self._headers.get(name, b"")

    def query(self) -> dict[str, str]:
        """Return the query parameters; of repeated ones the last."""
        text = self.scope["query_string"].decode("latin-1")
        return {name: values[-1] for name, values in parse_qs(text).items()} if text else {}

    async def body(self) -> bytes:
        """Return the whole body."""
        message = await self.receive()
        if not message.get("more_body", False):
            return bytes(message.get("body", b""))
        parts = [message["body"]]
        while message.get("more_body", False):
            message = await self.receive()
            parts.append(message.get("body", b""))
        return b"".join(parts)

    async def send(self, answer: Answer) -> None:
        """Send the response."""
        await self._start(answer)
        await self._send({"type": "http.response.body", "body": answer.body})

    async def send_malformed(self, answer: Answer) -> None:
        """Send the first half of the body as a complete response."""
        half = answer.body[: len(answer.body) // 2]
        await self.send(Answer(answer.status, half, answer.headers))

    async def send_truncated(self, answer: Answer) -> None:
        """Send half of the announced body and close the connection."""
        half = answer.body[: len(answer.body) // 2]
        await self._start(answer)
        await self._send({"type": "http.response.body", "body": half, "more_body": True})
        self._transport.close()
        await self.silence()

    async def reset(self) -> None:
        """Reset the connection, as if the server had crashed."""
        self.hang_up()
        await self.silence()

    def hang_up(self) -> None:
        """Reset the connection."""
        transport = self._transport
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None and not transport.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        transport.abort()

    async def silence(self) -> None:
        """Send nothing until the client disconnects."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _start(self, answer: Answer) -> None:
        headers = list(answer.headers)
        if answer.status != HTTPStatus.NO_CONTENT:
            headers.append((b"content-length", str(len(answer.body)).encode()))
        message = {"type": "http.response.start", "status": answer.status, "headers": headers}
        await self._send(message)

    @property
    def _transport(self) -> asyncio.WriteTransport:
        # uvicorn's `send` is a method of the object that owns the connection.
        transport: asyncio.WriteTransport = self._send.__self__.transport  # type: ignore[attr-defined]
        return transport
