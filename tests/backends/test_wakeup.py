"""Wake-ups of another process on this machine: at once, and bounded whoever sends them."""

import subprocess
import sys
from collections.abc import AsyncIterator

import anyio
import pytest

from replicate_mcp.backends.sqlite.wakeup import (
    WAKE_UPS_AT_ONCE,
    WAKE_UPS_PER_SECOND,
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


async def test_each_ring_of_a_hundred_is_heard_without_a_delay(doorbell: Doorbell) -> None:
    other = Doorbell()
    with anyio.fail_after(100 / WAKE_UPS_PER_SECOND * 0.75):
        for _ in range(100):
            other.ring([doorbell.port])
            await doorbell.rung()
    await other.close()


async def test_a_flood_of_datagrams_wakes_it_no_more_often_than_the_bound(
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
    assert returns <= WAKE_UPS_AT_ONCE + (elapsed + 0.1) * WAKE_UPS_PER_SECOND
    with anyio.move_on_after(1):  # What is left of the flood.
        while True:
            await doorbell.rung()
    other = Doorbell()
    other.ring([doorbell.port])
    with anyio.fail_after(5):
        await doorbell.rung()
    await other.close()
