"""Termination signals, received through the means of Windows' event loop."""

import asyncio
import os
import signal
from typing import Any

import anyio
import pytest

from replicate_mcp.platform.signals import END_SIGNALS, wait_for_end_signal


class LoopWithoutSignals(asyncio.SelectorEventLoop):
    """An event loop like that of Windows."""

    def add_signal_handler(self, *_: Any) -> None:  # type: ignore[override]
        raise NotImplementedError


@pytest.mark.parametrize("number", END_SIGNALS)
def test_signal_is_received_without_event_loop_signal_handlers(number: int) -> None:
    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(wait_for_end_signal)
            await anyio.wait_all_tasks_blocked()
            os.kill(os.getpid(), number)

    before = [signal.getsignal(each) for each in END_SIGNALS]
    try:
        with asyncio.Runner(loop_factory=LoopWithoutSignals) as runner:
            runner.run(asyncio.wait_for(run(), 5))
    finally:
        for each, handler in zip(END_SIGNALS, before, strict=True):
            signal.signal(each, handler)


def test_signal_handlers_are_restored_without_a_signal() -> None:
    before = [signal.getsignal(each) for each in END_SIGNALS]

    async def run() -> None:
        with anyio.move_on_after(0.01):
            await wait_for_end_signal()
        assert signal.getsignal(signal.SIGTERM) is before[0]

    anyio.run(run)
    assert [signal.getsignal(each) for each in END_SIGNALS] == before
