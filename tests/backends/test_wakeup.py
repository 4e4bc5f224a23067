"""Wake-ups between processes of one machine: immediate, and limited for any sender."""

import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import anyio
import pytest

from replicate_mcp.backends.sqlite.wakeup import (
    WAKEUP_BURST,
    WAKEUPS_PER_SECOND,
    Doorbell,
)

FLOOD = """
import socket, sys

flooding = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    flooding.sendto(b"", ("127.0.0.1", int(sys.argv[1])))
"""


@pytest.fixture
async def doorbell() -> AsyncIterator[Doorbell]:
    doorbell = Doorbell()
    yield doorbell
    await doorbell.close()


async def test_hundred_rings_are_each_received_without_delay(doorbell: Doorbell) -> None:
    other = Doorbell()
    with anyio.fail_after(100 / WAKEUPS_PER_SECOND * 0.75):
        for _ in range(100):
            other.ring([doorbell.port])
            await doorbell.rung()
    await other.close()


async def test_wakeups_beyond_a_burst_of_two_hundred_are_limited_to_fifty_a_second(
    doorbell: Doorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, slept = 1_000_000.0, list[float]()

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(round(seconds, 6))
        now += seconds

    monkeypatch.setattr(anyio, "current_time", lambda: now)
    monkeypatch.setattr(anyio, "sleep", sleep)

    async def wake_up(times: int) -> list[float]:
        """Return the delays of `count` wake-ups that arrive at the same moment."""
        slept.clear()
        for _ in range(times):
            doorbell.ring([doorbell.port])
            await doorbell.rung()
        return list(slept)

    assert await wake_up(200) == []
    assert await wake_up(3) == [0.02, 0.02, 0.02]
    now += 0.03
    assert await wake_up(2) == [0.01]
    now += 0.105
    assert await wake_up(6) == [0.015]
    now += 3_600
    assert await wake_up(202) == [0.02, 0.02]


async def test_simultaneous_rings_are_received_as_one(doorbell: Doorbell) -> None:
    for _ in range(5):
        doorbell.ring([doorbell.port, doorbell.port])
    await doorbell.rung()
    with anyio.move_on_after(0.05):
        await doorbell.rung()
        pytest.fail("it was rung once")
    doorbell.ring([doorbell.port])
    with anyio.fail_after(5):
        await doorbell.rung()


async def test_ringing_skips_closed_doorbells(doorbell: Doorbell) -> None:
    gone = Doorbell()
    port = gone.port
    await gone.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", port))
    other = Doorbell()
    other.ring([port, 0, doorbell.port])
    with anyio.fail_after(5):
        await doorbell.rung()
    await other.close()


async def test_datagram_flood_wakes_the_doorbell_no_more_often_than_the_limit(
    doorbell: Doorbell,
) -> None:
    with subprocess.Popen([sys.executable, "-c", FLOOD, str(doorbell.port)]) as flood:
        try:
            await doorbell.rung()
            begun, returns = anyio.current_time(), 1
            while (elapsed := anyio.current_time() - begun) < 2:
                await doorbell.rung()
                returns += 1
        finally:
            flood.kill()
    assert returns <= WAKEUP_BURST + (elapsed + 0.1) * WAKEUPS_PER_SECOND
    with anyio.move_on_after(1):  # Drain the rest of the flood.
        while True:
            await doorbell.rung()
    other = Doorbell()
    other.ring([doorbell.port])
    with anyio.fail_after(5):
        await doorbell.rung()
    await other.close()
