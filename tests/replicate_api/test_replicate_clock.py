"""Replicate's clock is read from the `Date` header, independent of the transfer time."""

from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from batches.direct import Forward, Replicate
from batches.virtual_time import EPOCH, in_virtual_time


class Trickle(httpx.AsyncByteStream):
    """A body that arrives in two halves, some seconds apart."""

    def __init__(self, body: bytes, seconds: float) -> None:
        self._body = body
        self._seconds = seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        half = len(self._body) // 2
        yield self._body[:half]
        await anyio.sleep(self._seconds)
        yield self._body[half:]


@pytest.mark.parametrize("offset", [0, 3_600, -40])
@in_virtual_time
async def test_slow_response_body_does_not_set_the_clock_back(offset: float) -> None:
    replicate = Replicate(clock_offset_seconds=offset)

    async def slowly(request: httpx.Request, forward: Forward) -> httpx.Response:
        response = await forward(request)
        return httpx.Response(
            response.status_code,
            headers={"date": response.headers["date"]},
            stream=Trickle(await response.aread(), 30),
        )

    replicate.answer("list", slowly)
    gateway = replicate.gateway()
    await gateway.predictions_since(EPOCH)
    assert gateway.now() == pytest.approx(EPOCH + offset + 30, abs=1)
