"""The HTTP transport under the `replicate` client; it compensates for the client's defects.

The client drops unknown headers, sends some requests without a timeout, silently retries others,
ignores proxies, rejects the status `aborted`, and sends its token to whatever host it is given.
This transport handles all of these.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import httpx

from replicate_mcp.cpu_bound import run_cpu_bound
from replicate_mcp.platform.clock import steady_time
from replicate_mcp.platform.sockets import keepalive_socket_options
from replicate_mcp.replicate_api.connection import connection_fault, connection_options
from replicate_mcp.replicate_api.exceptions import (
    ApiStatusError,
    Intercepted,
    ReplicateApiError,
    RequestNotSent,
    ResponseLost,
    SentTooLate,
    UnreadableCreation,
)
from replicate_mcp.replicate_api.json_body import parse_json
from replicate_mcp.text import one_line

CONNECT_SECONDS = 10.0
WRITE_SECONDS = 60.0
READ_SECONDS = 30.0
"""Timeouts in seconds for each phase of a call whose response Replicate does not hold."""

HOLD_SLACK_SECONDS = 15.0
"""Seconds that a held response may take beyond its hold before it counts as lost."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Maximum size of a response: a held one may carry images as data URIs, but a larger body is not
from Replicate."""

KEEPALIVE_SECONDS = 20.0
"""Seconds for which an idle connection is kept: servers close connections that idle longer."""

SILENCE_SECONDS = 30.0
"""Seconds without any acknowledgement after which a connection fails, also while a response is
held: after the machine slept or changed networks, that response would never arrive."""

MAX_RESPONSES_AT_ONCE = 8
"""Responses that leave the transport within the same two turns of the event loop, at most."""

_BEFORE_WRITING = (".send_request_headers.started", ".send_request_body.started")
"""Ends of the names of httpcore's events after which the next bytes of a request are written."""

_PROXY_STATUSES = frozenset({413, 414, 429, 431})
"""Statuses that are valid even if a proxy returns them: the request is too large, or there are too
many."""


@dataclass(slots=True)
class Call:
    """Options of a call that the client cannot express, and the raw response.

    Attributes:
        hold: seconds for which Replicate may hold the response; 0 for an immediate response.
        cancel_after: seconds after which Replicate cancels the prediction by itself; None to send
            no `Cancel-After`.
        send_by: the time, on the clock of `steady_time`, after which the request is not sent.
        answer: the parsed body; None before it arrives.
        size_bytes: size of the response body.
    """

    hold: int = 0
    cancel_after: int | None = None
    send_by: float = math.inf
    answer: Any = None
    size_bytes: int = 0


_call: ContextVar[Call] = ContextVar("call")


@contextlib.contextmanager
def call(
    hold: int = 0, cancel_after: int | None = None, send_by: float = math.inf
) -> Iterator[Call]:
    """Set the options of one client call inside; its raw response is in `answer` afterwards."""
    this = Call(hold, cancel_after, send_by)
    reset = _call.set(this)
    try:
        yield this
    finally:
        _call.reset(reset)


class Transport(httpx.AsyncBaseTransport):
    """An HTTP transport that uses one connection a request and keeps idle ones for later requests.

    There is no pool to queue in, however many requests run. Every response is read completely. A
    status of 400 or more is raised as `ApiStatusError`, so that no layer above retries it; a
    proxy's own page as `Intercepted`; a request that never reached the server as `RequestNotSent`;
    and a sent request without a complete response as `ResponseLost`.
    """

    def __init__(self, base_url: str) -> None:
        self._base = httpx.URL(base_url)
        self._options: dict[str, Any] | None = None
        self._choosing_options = anyio.Lock()
        self._leaving = anyio.Semaphore(MAX_RESPONSES_AT_ONCE, fast_acquire=True)
        self._idle: list[tuple[float, httpx.AsyncHTTPTransport]] = []
        self._clock = time.time() - steady_time()
        self.clock_known = False

    def now(self) -> float:
        """Return the time on Replicate's clock, from its `Date` headers; seconds since the epoch.

        Between responses the time advances steadily, even if this machine's clock is changed.
        """
        return steady_time() + self._clock

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request and read its complete response."""
        this = _call.get()
        if _origin(request.url) != _origin(self._base):
            raise RequestNotSent(
                f"{request.url.host} is not Replicate's API: the token is not sent there"
            )
        if this.hold:
            request.headers["Prefer"] = f"wait={this.hold}"
        if this.cancel_after is not None:
            request.headers["Cancel-After"] = f"{this.cancel_after}s"
        if this.send_by < math.inf:
            request.extensions["trace"] = partial(_check_in_time, this.send_by)
        request.extensions["timeout"] = {
            "connect": CONNECT_SECONDS,
            "write": WRITE_SECONDS,
            "read": this.hold + HOLD_SLACK_SECONDS if this.hold else READ_SECONDS,
            "pool": None,
        }
        status, headers, body = await self._exchange(request)
        this.size_bytes = len(body)
        this.answer = await run_cpu_bound(
            lambda: _parse(status, headers, body), size_bytes=len(body)
        )
        await self._take_turns()
        # The client gets an empty body: it would parse the full one again, whatever its size, and
        # reject values that it does not know. Its parsed result is not used.
        return httpx.Response(
            status, headers={"content-type": "application/json"}, content=b"{}", request=request
        )

    async def _take_turns(self) -> None:
        """Let few responses through in each turn of the event loop, in the order of their arrival.

        Predictions of the same duration end together. If all of their responses went through each
        step together, the next predictions would only be created after the last step of them all.
        """
        # A response that has arrived is not lost by a cancellation meanwhile.
        with anyio.CancelScope(shield=True):
            async with self._leaving:
                await anyio.lowlevel.cancel_shielded_checkpoint()

    async def close_idle(self) -> None:
        """Close the connections that have been idle for too long to be reused."""
        while self._idle and steady_time() - self._idle[0][0] > KEEPALIVE_SECONDS:
            await self._drop(self._idle.pop(0)[1])

    async def aclose(self) -> None:
        """Close every idle connection."""
        while self._idle:
            await self._idle.pop()[1].aclose()

    async def _exchange(self, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        connection = await self._connection()
        try:
            response = await connection.handle_async_request(request)
            self._set_clock(response.headers.get("date"))  # Before the body, which may take long.
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise ResponseLost(f"the answer is over {MAX_ANSWER_BYTES} bytes")
            await response.aclose()
        except BaseException as error:
            await self._drop(connection)
            if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
                raise await connection_fault(error, str(self._base)) from error
            if isinstance(error, (httpx.LocalProtocolError, httpx.UnsupportedProtocol)):
                raise RequestNotSent("the request cannot be sent as it is") from None
            if isinstance(error, (httpx.TransportError, httpx.DecodingError)):
                what = str(error) or type(error).__name__
                raise ResponseLost(f"the answer of {self._base.host} was lost ({what})") from error
            if isinstance(error, Exception) and not isinstance(error, ReplicateApiError):
                # It is unknown whether the request was sent.
                what = one_line(str(error), 200) or type(error).__name__
                raise ResponseLost(f"the request to {self._base.host} failed ({what})") from error
            raise
        self._idle.append((steady_time(), connection))
        return response.status_code, response.headers, bytes(body)

    async def _connection(self) -> httpx.AsyncHTTPTransport:
        # Reuse the most recently used connection, so that surplus ones age at the front of the
        # list.
        await self.close_idle()
        if self._idle:
            return self._idle.pop()[1]
        if self._options is None:
            async with self._choosing_options:
                if self._options is None:
                    self._options = await connection_options(str(self._base))
        return httpx.AsyncHTTPTransport(
            **self._options,
            socket_options=keepalive_socket_options(SILENCE_SECONDS),
            limits=httpx.Limits(max_connections=1, keepalive_expiry=KEEPALIVE_SECONDS),
        )

    @staticmethod
    async def _drop(connection: httpx.AsyncHTTPTransport) -> None:
        with contextlib.suppress(Exception):
            await connection.aclose()

    def _set_clock(self, date: str | None) -> None:
        try:
            server_time = parsedate_to_datetime(date or "").timestamp()
        except (TypeError, ValueError):
            return
        own = time.time()
        # `Date` has whole seconds: a local clock within one second of it counts as correct.
        self._clock = (own if -1.5 < server_time - own < 0.5 else server_time) - steady_time()
        self.clock_known = True


async def _check_in_time(send_by: float, event: str, _: object) -> None:
    """Abort a request that would be sent after `send_by`; a trace function of httpcore.

    The process may have been suspended since then, or the connection have taken long to open. A
    request without its body has no effect.
    """
    if event.endswith(_BEFORE_WRITING) and steady_time() > send_by:
        raise SentTooLate("no connection to it was ready in time")


def _parse(status: int, headers: httpx.Headers, body: bytes) -> Any:
    try:
        parsed = parse_json(body) if body else {}
    except ValueError:
        parsed = None
    if status >= 400:
        said = parsed if isinstance(parsed, dict) else body[:2_000].decode(errors="replace")
        if isinstance(said, str) and status < 500 and status not in _PROXY_STATUSES:
            raise Intercepted.from_response(status, said)
        raise ApiStatusError.from_response(status, headers, said)
    if not isinstance(parsed, dict):
        # Only Replicate returns a success status: a proxy's page has another one.
        lost = UnreadableCreation if status in (201, 202) else ResponseLost
        raise lost("the answer is not a JSON object")
    return parsed


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
