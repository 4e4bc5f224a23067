"""Closing a socket while an event loop's thread may be waiting for it, as on Windows."""

import asyncio
import select
import socket
from pathlib import Path
from selectors import SelectSelector
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import pytest
from anyio._core import _asyncio_selector_thread as selector_thread

from replicate_mcp.platform import sockets
from replicate_mcp.platform.sockets import close_datagram_socket, keepalive_options, send_datagram
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.replicate_api.transport import SILENCE_SECONDS
from replicate_mcp.simulator import Simulator

TCP_TABLE = Path("/proc/net/tcp")


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """An event loop like that of Windows: anyio waits for sockets in a thread for it."""

    def add_reader(self, *args: Any) -> None:  # type: ignore[override]
        raise NotImplementedError


class Watched(SelectSelector):
    """A selector that records the sockets that its thread is waiting for."""

    inside: frozenset[int] = frozenset()

    def _select(self, read: Any, write: Any, _: Any, timeout: float | None = None) -> Any:
        Watched.inside = frozenset(read)
        try:
            found = select.select(read, write, [], timeout)
        finally:
            Watched.inside = frozenset()
        return (*found[:2], [])


@pytest.fixture
def waited_for_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selector_thread, "DefaultSelector", Watched)
    monkeypatch.setattr(selector_thread, "_selector", None)  # anyio stops each thread at exit.


class Datagrams(socket.socket):
    """Records whether a thread was waiting for it when it was closed."""

    was_waited_for: bool | None = None

    def close(self) -> None:
        if self.fileno() != -1:
            self.was_waited_for = self.fileno() in Watched.inside
        super().close()


def bound() -> Datagrams:
    made = Datagrams(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind(("127.0.0.1", 0))
    return made


@pytest.mark.usefixtures("waited_for_in_a_thread")
@pytest.mark.parametrize("was_cancelled", [True, False])
def test_socket_is_not_closed_while_a_thread_waits_on_it(was_cancelled: bool) -> None:
    async def run() -> None:
        for _ in range(20):
            watched = bound()
            if was_cancelled:
                with anyio.move_on_after(0.05):
                    await anyio.wait_readable(watched)
                assert watched.fileno() in Watched.inside  # The thread has not noticed the close.
            await close_datagram_socket(watched)
            assert watched.was_waited_for is False
        # The thread continues: other sockets can still be waited for.
        other = bound()
        other.sendto(b"", other.getsockname())
        with anyio.fail_after(5):
            await anyio.wait_readable(other)
        await close_datagram_socket(other)

    with asyncio.Runner(loop_factory=LoopWithoutReaders) as runner:
        runner.run(run())


@pytest.mark.usefixtures("waited_for_in_a_thread")
def test_socket_a_task_waits_on_stays_open_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "IS_WINDOWS", True)

    async def wait(watched: Datagrams) -> None:
        await anyio.wait_readable(watched)

    async def run() -> None:
        watched = bound()
        async with anyio.create_task_group() as group:
            group.start_soon(wait, watched)
            await anyio.wait_all_tasks_blocked()
            await close_datagram_socket(watched)
        assert watched.was_waited_for is None
        watched.close()

    with asyncio.Runner(loop_factory=LoopWithoutReaders) as runner:
        runner.run(run())


def test_keepalive_options_detect_dead_connections_on_each_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TCP_KEEPIDLE", "TCP_USER_TIMEOUT"):
        monkeypatch.delattr(socket, name, raising=False)
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", 0x10, raising=False)  # As on macOS.
    assert keepalive_options(15)[0x10] == 15


class SocketFailingOnce:
    """A socket as on Windows, where the next call raises the error of an earlier datagram."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self._has_failed = False

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        if not self._has_failed:
            self._has_failed = True
            raise ConnectionResetError(10054, "WSAECONNRESET")
        self.sent.append(address)


def test_datagram_is_sent_after_an_earlier_one_was_undeliverable() -> None:
    sender = SocketFailingOnce()
    send_datagram(cast(socket.socket, sender), ("127.0.0.1", 9))
    assert sender.sent == [("127.0.0.1", 9)]


@pytest.mark.skipif(not TCP_TABLE.is_file(), reason="Linux shows the timers of connections")
async def test_connections_to_replicate_detect_a_dead_peer(
    simulator: Simulator,
) -> None:
    gateway = Gateway("r8_acme_1", simulator.url)
    await gateway.account()
    port = urlsplit(simulator.url).port
    rows = [line.split() for line in TCP_TABLE.read_text().splitlines()[1:]]
    (timer,) = [row[5] for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "01"]
    kind, when = timer.split(":")
    assert kind == "02"  # Keep-alive.
    assert int(when, 16) / 100 == pytest.approx(SILENCE_SECONDS / 2, abs=1)
    await gateway.aclose()
