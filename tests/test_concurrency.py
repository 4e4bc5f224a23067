"""Concurrent calls: all run together, and the first exception arrives as it was raised."""

import anyio
import pytest

from replicate_mcp.concurrency import for_each


async def test_calls_run_together_and_are_all_awaited() -> None:
    started: list[int] = []
    ended: list[int] = []
    all_started = anyio.Event()

    async def work(number: int) -> None:
        started.append(number)
        if len(started) == 3:
            all_started.set()
        await all_started.wait()
        ended.append(number)

    await for_each(range(3), work)
    assert sorted(ended) == [0, 1, 2]


async def test_first_exception_is_raised_unwrapped_and_cancels_the_other_calls() -> None:
    cancelled: list[int] = []

    async def work(number: int) -> None:
        if number == 0:
            await anyio.sleep(0)
            raise KeyError("a fault")
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled.append(number)
            raise

    with pytest.raises(KeyError, match="a fault"):
        await for_each(range(3), work)
    assert sorted(cancelled) == [1, 2]
