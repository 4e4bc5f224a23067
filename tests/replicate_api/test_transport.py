"""The transport below the client: headers, timeouts, connections, broken responses, the clock."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from email.utils import formatdate
from functools import partial
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import httpx
import pytest

from batches.virtual_time import EPOCH, in_virtual_time
from replicate_mcp.platform.sockets import keepalive_socket_options
from replicate_mcp.replicate_api import transport as module
from replicate_mcp.replicate_api.exceptions import (
    ApiStatusError,
    Intercepted,
    ReplicateApiError,
    RequestNotSent,
    ResponseLost,
    UnreadableCreation,
)
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.replicate_api.transport import Call, Transport, call

URL = "http://127.0.0.1:9"

Answer = Callable[[], Awaitable[httpx.Response]]


class Wire(httpx.AsyncBaseTransport):
    """A connection that responds with `answer`; `made` has all connections, oldest first."""

    made: ClassVar[list["Wire"]] = []
    answer: ClassVar[Answer]

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.requests: list[httpx.Request] = []
        self.closed_at: float | None = None
        self.made.append(self)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return await type(self).answer()

    async def aclose(self) -> None:
        self.closed_at = asyncio.get_running_loop().time()


def answers(status: int = 200, body: bytes = b"{}", **headers: str) -> Answer:
    async def answer() -> httpx.Response:
        return httpx.Response(status, content=body, headers=headers)

    return answer


@pytest.fixture(autouse=True)
def wires(monkeypatch: pytest.MonkeyPatch) -> list[Wire]:
    """Return all created connections, which replace real ones."""
    Wire.made.clear()
    Wire.answer = staticmethod(answers())
    monkeypatch.setattr(httpx, "AsyncHTTPTransport", Wire)
    return Wire.made


async def sent(transport: Transport, url: str = f"{URL}/v1/account", **options: Any) -> Call:
    """Send one request; return its call with the response."""
    with call(**options) as this:
        response = await transport.handle_async_request(httpx.Request("GET", url))
    assert (response.headers["content-type"], response.json()) == ("application/json", {})
    return this


# Requests.


@pytest.mark.parametrize(
    ("options", "headers", "read"),
    [
        ({}, {}, 30.0),
        ({"hold": 60}, {"prefer": "wait=60"}, 75.0),
        ({"hold": 1}, {"prefer": "wait=1"}, 16.0),
        ({"cancel_after": 77}, {"cancel-after": "77s"}, 30.0),
        ({"hold": 5, "cancel_after": 9}, {"prefer": "wait=5", "cancel-after": "9s"}, 20.0),
    ],
)
@in_virtual_time
async def test_call_has_its_headers_and_timeouts(
    options: dict[str, Any], headers: dict[str, str], read: float
) -> None:
    await sent(Transport(URL), **options)
    (request,) = Wire.made[0].requests
    sent_headers = {k: v for k, v in request.headers.items() if k in ("prefer", "cancel-after")}
    assert sent_headers == headers
    phases = {"connect": 10.0, "write": 60.0, "read": read, "pool": None}
    assert request.extensions["timeout"] == phases


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://127.0.0.1:9/v1/account", "127.0.0.1"),
        ("http://127.0.0.1:10/v1/account", "127.0.0.1"),
        ("http://127.0.0.1/v1/account", "127.0.0.1"),
        ("http://evil.example:9/v1/account", "evil.example"),
    ],
)
@in_virtual_time
async def test_token_is_sent_only_to_the_api_origin(url: str, host: str) -> None:
    with pytest.raises(RequestNotSent) as refused:
        await sent(Transport(URL), url)
    assert str(refused.value) == f"{host} is not Replicate's API: the token is not sent there"
    assert Wire.made == []


@in_virtual_time
async def test_connection_serves_one_request_and_detects_a_silent_peer() -> None:
    await sent(Transport(URL))
    (wire,) = Wire.made
    limits = wire.options["limits"]
    assert (limits.max_connections, limits.keepalive_expiry) == (1, 20.0)
    assert wire.options["socket_options"] == keepalive_socket_options(30)
    assert isinstance(wire.options["verify"], ssl.SSLContext)
    assert wire.options["proxy"] is None


@in_virtual_time
async def test_environment_is_read_once_for_many_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    async def options(url: str) -> dict[str, Any]:
        asked.append(url)
        await anyio.sleep(1)
        return {"verify": True}

    monkeypatch.setattr(module, "connection_options", options)
    transport = Transport(URL)
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(sent, transport)
    assert (len(Wire.made), asked) == (5, [URL])


# Connections between requests.


def used() -> list[int]:
    """Return how many requests each connection has had."""
    return [len(wire.requests) for wire in Wire.made]


def closed() -> list[float | None]:
    """Return when each connection was closed."""
    return [wire.closed_at for wire in Wire.made]


@in_virtual_time
async def test_newest_idle_connection_is_reused_and_old_ones_are_closed() -> None:
    async def slow() -> httpx.Response:
        await anyio.sleep(1)
        return httpx.Response(200, content=b"{}")

    Wire.answer = staticmethod(slow)
    transport = Transport(URL)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(sent, transport)
    assert used() == [1, 1, 1]
    await anyio.sleep(10)
    await sent(transport)
    assert used() == [1, 1, 2]
    await anyio.sleep(9)  # Exactly twenty seconds after the three.
    await transport.close_idle()
    assert closed() == [None, None, None]
    await anyio.sleep(0.5)
    await transport.close_idle()
    assert closed() == [21.5, 21.5, None]
    await anyio.sleep(20)
    await sent(transport)
    assert (used(), closed()) == ([1, 1, 2, 1], [21.5, 21.5, 41.5, None])
    await transport.aclose()
    await transport.aclose()
    assert closed() == [21.5, 21.5, 41.5, 42.5]


@in_virtual_time
async def test_closing_the_transport_closes_all_idle_connections() -> None:
    transport = Transport(URL)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(sent, transport)
    assert closed() == [None] * len(Wire.made)
    await transport.aclose()
    assert closed() == [0.0] * len(Wire.made)


@in_virtual_time
async def test_gateway_closes_its_connections_in_any_state() -> None:
    Wire.answer = staticmethod(answers(body=b'{"username": "acme"}'))
    gateway = Gateway("r8_acme_1", URL)
    await gateway.account()
    await anyio.sleep(21)
    await gateway.close_idle()
    assert closed() == [21.0]
    await gateway.account()
    await gateway.close_idle()
    assert closed() == [21.0, None]
    await gateway.aclose()
    assert closed() == [21.0, 21.0]


async def together(handle: Callable[[Transport], Coroutine[Any, Any, None]], count: int) -> None:
    """Run `handle` `count` times at once; the responses arrive together once all were requested."""
    arrived, transport = anyio.Event(), Transport(URL)

    async def answer() -> httpx.Response:
        await arrived.wait()
        return await answers()()

    Wire.answer = staticmethod(answer)
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(handle, transport)
        await anyio.wait_all_tasks_blocked()
        arrived.set()


async def test_first_of_many_responses_is_handled_before_the_last_has_left() -> None:
    left, left_at_ends = 0, []

    async def handle(transport: Transport) -> None:
        nonlocal left
        await sent(transport)
        left += 1
        for _ in range(4):  # Further steps, such as sending the next request.
            await anyio.lowlevel.checkpoint()
        left_at_ends.append(left)

    await together(handle, 60)
    assert left_at_ends[0] <= 5 * module.MAX_RESPONSES_AT_ONCE
    assert left_at_ends[-1] == 60


async def test_response_that_waits_for_its_turn_survives_a_cancellation() -> None:
    handled = []

    async def handle(transport: Transport) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            handled.append((await sent(transport)).answer)
        for each in scopes:  # Most of the others wait for their turns.
            each.cancel()

    scopes: list[anyio.CancelScope] = []
    await together(handle, 60)
    assert handled == [{}] * 60


@in_virtual_time
async def test_cancelled_request_closes_its_connection() -> None:
    async def silent() -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    Wire.answer = staticmethod(silent)
    transport = Transport(URL)
    with anyio.move_on_after(3) as waiting:
        await sent(transport)
    assert waiting.cancelled_caught
    assert closed() == [3.0]
    Wire.answer = staticmethod(answers())
    await sent(transport)
    assert used() == [1, 1]


# Broken responses.

TOO_LONG = "x" * 201
BROKEN: list[tuple[Exception, type[ReplicateApiError], str]] = [
    (
        httpx.ConnectError("refused"),
        RequestNotSent,
        "the simulator at http://127.0.0.1:9 does not answer",
    ),
    (
        httpx.ConnectTimeout(""),
        RequestNotSent,
        "the simulator at http://127.0.0.1:9 does not answer",
    ),
    (
        httpx.ProxyError("502 x"),
        RequestNotSent,
        "the proxy refuses the connection to 127.0.0.1 (502 x)",
    ),
    (httpx.LocalProtocolError("invalid"), RequestNotSent, "the request cannot be sent as it is"),
    (httpx.UnsupportedProtocol("invalid"), RequestNotSent, "the request cannot be sent as it is"),
    (httpx.ReadError("reset"), ResponseLost, "the answer of 127.0.0.1 was lost (reset)"),
    (httpx.ReadTimeout(""), ResponseLost, "the answer of 127.0.0.1 was lost (ReadTimeout)"),
    (httpx.WriteTimeout(""), ResponseLost, "the answer of 127.0.0.1 was lost (WriteTimeout)"),
    (httpx.RemoteProtocolError("gone"), ResponseLost, "the answer of 127.0.0.1 was lost (gone)"),
    (httpx.DecodingError("gzip"), ResponseLost, "the answer of 127.0.0.1 was lost (gzip)"),
    (OSError("two\nlines"), ResponseLost, "the request to 127.0.0.1 failed (two lines)"),
    (OSError(TOO_LONG), ResponseLost, f"the request to 127.0.0.1 failed ({'x' * 199}…)"),
    (ValueError(), ResponseLost, "the request to 127.0.0.1 failed (ValueError)"),
    (Intercepted("a firewall"), Intercepted, "a firewall"),
]


@pytest.mark.parametrize(("error", "kind", "sentence"), BROKEN)
@in_virtual_time
async def test_connection_error_depends_on_whether_the_request_was_sent(
    error: Exception, kind: type[ReplicateApiError], sentence: str
) -> None:
    async def fail() -> httpx.Response:
        raise error

    Wire.answer = staticmethod(fail)
    transport = Transport(URL)
    with pytest.raises(kind) as raised:
        await sent(transport)
    assert type(raised.value) is kind
    assert str(raised.value).startswith(sentence)
    assert closed() == [0.0]
    Wire.answer = staticmethod(answers())
    await sent(transport)
    assert used() == [1, 1], "a broken connection is not used again"


@in_virtual_time
async def test_failing_close_does_not_hide_the_original_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object) -> Any:
        raise httpx.ReadError("reset")

    async def fail_to_close(self: Wire) -> None:
        raise OSError("closed already")

    Wire.answer = staticmethod(fail)
    monkeypatch.setattr(Wire, "aclose", fail_to_close)
    with pytest.raises(ResponseLost, match="reset"):
        await sent(Transport(URL))


class Body(httpx.AsyncByteStream):
    """A body that arrives in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


@in_virtual_time
async def test_response_has_at_most_64_mebibytes() -> None:
    quarter = b" " * (16 * 2**20)

    async def answer(*pieces: bytes) -> httpx.Response:
        return httpx.Response(200, stream=Body(*pieces))

    Wire.answer = staticmethod(partial(answer, b'{"a": 1}', quarter, quarter))
    transport = Transport(URL)
    this = await sent(transport)
    assert (this.answer, this.size_bytes) == ({"a": 1}, 32 * 2**20 + 8)
    Wire.answer = staticmethod(partial(answer, *[quarter] * 4, b" "))
    with pytest.raises(ResponseLost, match=r"^the answer is over 67108864 bytes$"):
        await sent(transport)
    assert closed() == [0.0]


# Response documents.


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (200, b"", {}),
        (200, b'{"a": [1]}', {"a": [1]}),
        (201, b'{"a": 1}', {"a": 1}),
        (399, b"{}", {}),
    ],
)
@in_virtual_time
async def test_response_must_be_an_object(status: int, body: bytes, answer: object) -> None:
    Wire.answer = staticmethod(answers(status, body))
    this = await sent(Transport(URL))
    assert (this.answer, this.size_bytes) == (answer, len(body))


PAGE = b"<title>No entry</title>"
BY_A_PROXY = 'a proxy or firewall answered {} "No entry" in its place'


@pytest.mark.parametrize(
    ("status", "body", "kind", "sentence"),
    [
        *[(status, PAGE, Intercepted, BY_A_PROXY.format(status)) for status in (400, 403, 499)],
        (400, b'["No entry"]', Intercepted, 'a proxy or firewall answered 400 "["No entry"]" in'),
        (403, b"", ApiStatusError, "403: no reason given"),
        *[(status, PAGE, ApiStatusError, f"{status}: No entry") for status in (413, 414, 429, 431)],
        *[(status, PAGE, ApiStatusError, f"{status}: No entry") for status in (500, 502, 599)],
        (400, b'{"detail": "No."}', ApiStatusError, "400: No."),
        (503, b'{"detail": "No."}', ApiStatusError, "503: No."),
        (502, b"\xff", ApiStatusError, "502: \ufffd"),
        *[(s, b"[]", ResponseLost, "the answer is not a JSON object") for s in (200, 203, 399)],
        (200, PAGE, ResponseLost, "the answer is not a JSON object"),
        *[(s, b"[]", UnreadableCreation, "the answer is not a JSON object") for s in (201, 202)],
        (201, b"{", UnreadableCreation, "the answer is not a JSON object"),
    ],
)
@in_virtual_time
async def test_unusable_response_raises_an_error(
    status: int, body: bytes, kind: type[ReplicateApiError], sentence: str
) -> None:
    Wire.answer = staticmethod(answers(status, body))
    transport = Transport(URL)
    with pytest.raises(kind) as raised:
        await sent(transport)
    assert type(raised.value) is kind
    assert str(raised.value).startswith(sentence)
    Wire.answer = staticmethod(answers())
    await sent(transport)
    assert used() == [2], "its connection is as good as before"


@in_virtual_time
async def test_retry_delay_is_read_from_error_response_headers() -> None:
    Wire.answer = staticmethod(answers(429, b"{}", **{"retry-after": "7"}))
    with pytest.raises(ApiStatusError) as refused:
        await sent(Transport(URL))
    assert refused.value.retry_after == 7


# Clock.


@pytest.mark.parametrize(
    ("elapsed", "date", "now"),
    [
        # A clock that agrees to within a second is this machine's.
        (0, 0, 0),
        (0.75, 0, 0.75),
        (0.75, 1, 0.75),
        (0, -1, 0),
        (0.25, -1, 0.25),
        # Any other is Replicate's.
        (0.5, 1, 1),
        (0.5, -1, -1),
        (0, 1, 1),
        (0, -2, -2),
        (10, 3_610, 3_610),
    ],
)
@in_virtual_time
async def test_replicate_clock_equals_the_local_clock_when_they_agree(
    elapsed: float, date: float, now: float
) -> None:
    transport = Transport(URL)
    assert not transport.clock_known
    await anyio.sleep(elapsed)
    assert transport.now() == EPOCH + elapsed
    Wire.answer = staticmethod(answers(date=formatdate(EPOCH + date, usegmt=True)))
    await sent(transport)
    assert transport.clock_known
    assert transport.now() == EPOCH + now
    await anyio.sleep(5)
    assert transport.now() == EPOCH + now + 5


@pytest.mark.parametrize("headers", [{}, {"date": ""}, {"date": "yesterday"}])
@in_virtual_time
async def test_response_without_a_time_leaves_the_clock_unchanged(headers: dict[str, Any]) -> None:
    Wire.answer = staticmethod(answers(**headers))
    transport = Transport(URL)
    await sent(transport)
    assert not transport.clock_known
    assert transport.now() == EPOCH
