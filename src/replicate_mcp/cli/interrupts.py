"""Handling of Ctrl-C as an event, so that predictions can be cancelled on Replicate."""

import asyncio
import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

import anyio

from replicate_mcp.cli.main import INTERRUPTED


class Interrupts:
    """Context manager in which the first Ctrl-C sets `interrupted`; the second exits immediately.

    Use it in the main thread's event loop. It uses `signal.signal` because the event loop's own
    signal handlers do not exist on Windows.
    """

    def __init__(self, before_leaving: Callable[[], None]) -> None:
        self.interrupted = anyio.Event()
        self._before_leaving = before_leaving
        self._count = 0

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            try:
                self._before_leaving()
            finally:
                os._exit(INTERRUPTED)
        self._loop.call_soon_threadsafe(self.interrupted.set)
