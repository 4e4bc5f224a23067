"""The HTTP transport under the `replicate` client, where the client's own faults are closed.

The client drops headers it does not know, sends some requests without a time-out, retries others
unseen, ignores proxies, refuses `aborted`, and sends its token wherever it is pointed.
All of that passes through here.
"""

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import anyio
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
    UnreadableCreation,
)
from replicate_mcp.replicate_api.json_body import parse_json
from replicate_mcp.text import one_line

CONNECT_SECONDS = 10.0
WRITE_SECONDS = 60.0
READ_SECONDS = 30.0
"""Seconds for each phase of a call that Replicate does not hold."""

HOLD_SLACK_SECONDS = 15.0
"""What a held answer may take beyond its hold before it counts as lost."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A held answer may carry images as data URIs; anything larger is no answer of Replicate's."""

KEEPALIVE_SECONDS = 20.0
"""How long an idle connection is kept: a longer one meets servers that have closed it."""

SILENCE_SECONDS = 30.0
"""Seconds after which a connection fails whose other end acknowledges nothing, also while an answer
is held: after the machine slept or left its network, that answer would never come."""

_PROXY_STATUSES = frozenset({413, 414, 429, 431})
"""Refusals that hold whoever on the way gives them: too large, or too many."""


@dataclass(slots=True)
class Call:
    """What a call asks of the transport beyond what the client can say, and the raw answer.

    Attributes:
        hold: seconds for which Replicate may hold the answer; 0 for an answer at once.
        cancel_after: seconds after which Replicate cancels the prediction by itself.
        size_bytes: of the answer's body.
    """

    hold: int = 0
    cancel_after: int | None = None
    answer: Any = None
    size_bytes: int = 0


_call: ContextVar[Call] = ContextVar("call")


@contextlib.contextmanager
def call(hold: int = 0, cancel_after: int | None = None) -> Iterator[Call]:
    """Make one call of the client inside; its raw answer is in `answer` afterwards."""
    this = Call(hold, cancel_after)
    reset = _call.set(this)
    try:
        yield this
    finally:
        _call.reset(reset)


class Transport(httpx.AsyncBaseTransport):
    """One connection a request, kept for the next: no pool to queue in, however many run.

    Every answer is read whole. One with a status of 400 or more is raised as `Refusal`, so that
    nothing above retries it; a proxy's own page as `Intercepted`; what never reached the server as
    `NotSent`; what was sent and has no whole answer as `LostAnswer`.
    """

    def __init__(self, base_url: str) -> None:
        self._base = httpx.URL(base_url)
        self._options: dict[str, Any] | None = None
        self._choosing_options = anyio.Lock()
        self._idle: list[tuple[float, httpx.AsyncHTTPTransport]] = []
        self._clock = time.time() - steady_time()
        self.clock_known = False

    def now(self) -> float:
        """The time on Replicate's clock, by the `Date` of its answers; seconds since the epoch.

        Between answers it goes on evenly, whatever this machine's clock is set to meanwhile.
        """
        return steady_time() + self._clock

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request and read its answer whole."""
        this = _call.get()
        if _origin(request.url) != _origin(self._base):
            raise RequestNotSent(
                f"{request.url.host} is not Replicate's API: the token is not sent there"
            )
        if this.hold:
            request.headers["Prefer"] = f"wait={this.hold}"
        if this.cancel_after is not None:
            request.headers["Cancel-After"] = f"{this.cancel_after}s"
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
        # The client is given nothing to read: it would parse the body again, whatever its size,
        # and refuse what it does not know. Nothing of its own reading is used.
        return httpx.Response(
            status, headers={"content-type": "application/json"}, content=b"{}", request=request
        )

    async def close_idle(self) -> None:
        """Close the connections that have been idle for too long to be used again."""
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
                # Nothing says whether the request was sent.
                what = one_line(str(error), 200) or type(error).__name__
                raise ResponseLost(f"the request to {self._base.host} failed ({what})") from error
            raise
        self._idle.append((steady_time(), connection))
        return response.status_code, response.headers, bytes(body)

    async def _connection(self) -> httpx.AsyncHTTPTransport:
        # The newest idle one is taken, so that those beyond what is needed grow old at the bottom.
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
        # `Date` has whole seconds: a clock that agrees to within one is taken as right.
        self._clock = (own if -1.5 < server_time - own < 0.5 else server_time) - steady_time()
        self.clock_known = True


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
        # Only Replicate answers so: a proxy's page has another status.
        lost = UnreadableCreation if status in (201, 202) else ResponseLost
        raise lost("the answer is not a JSON object")
    return parsed


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
