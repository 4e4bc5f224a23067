"""Clock of the simulator, and the formats of its times in responses."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from email.utils import formatdate
from typing import Protocol


class Timer(Protocol):
    """Scheduled callback that can be cancelled."""

    def cancel(self) -> None:
        """Cancel the callback."""


class Clock(Protocol):
    """Source of time and of scheduled callbacks."""

    def now(self) -> float:
        """Return seconds since the epoch; they never go back."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` after `seconds`."""


class LoopClock:
    """Clock of a running event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoch = time.time() - loop.time()

    def now(self) -> float:
        """Return seconds since the epoch; they never go back."""
        return self._loop.time() + self._epoch

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` after `seconds`; 0 means the loop's next iteration."""
        if seconds <= 0:
            return self._loop.call_soon(callback)
        return self._loop.call_later(seconds, callback)


def timestamp(seconds: float) -> str:
    """Return a time as ISO 8601 in UTC with 3 to 9 fractional digits, a number Replicate varies."""
    whole = int(seconds)
    nanoseconds = int((seconds - whole) * 1e9)
    digits = 3 + nanoseconds // 1000 % 7
    day_and_time = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{day_and_time}.{nanoseconds:09d}"[: 20 + digits] + "Z"


def from_timestamp(text: str) -> float:
    """Return a time as seconds since the epoch; without a time zone it is UTC.

    Raises:
        ValueError: the text is not an ISO 8601 time.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = datetime.fromisoformat(text + "Z")
    return moment.timestamp()


class DateHeader:
    """`Date` header, formatted once per second."""

    def __init__(self) -> None:
        self._second = -1
        self._value = b""

    def at(self, seconds: float) -> bytes:
        """Return the header's value at a time in seconds since the epoch."""
        second = int(seconds)
        if second != self._second:
            self._second = second
            self._value = formatdate(second, usegmt=True).encode()
        return self._value
