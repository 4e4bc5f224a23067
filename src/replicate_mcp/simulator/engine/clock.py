"""The simulator's clock, and how it is written in answers."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from email.utils import formatdate
from typing import Protocol


class Timer(Protocol):
    """Something that will happen, unless it is cancelled."""

    def cancel(self) -> None:
        """Let it not happen."""


class Clock(Protocol):
    """Tells the time and calls back later."""

    def now(self) -> float:
        """Seconds since the epoch; never goes back."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call back in so many seconds."""


class LoopClock:
    """The clock of a running event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoch = time.time() - loop.time()

    def now(self) -> float:
        """Seconds since the epoch; never goes back."""
        return self._loop.time() + self._epoch

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call back in so many seconds, with 0 in the loop's next round."""
        if seconds <= 0:
            return self._loop.call_soon(callback)
        return self._loop.call_later(seconds, callback)


def timestamp(seconds: float) -> str:
    """ISO 8601 in UTC, with 3 to 9 fractional digits, as Replicate varies them."""
    whole = int(seconds)
    nanoseconds = int((seconds - whole) * 1e9)
    digits = 3 + nanoseconds // 1000 % 7
    day_and_time = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{day_and_time}.{nanoseconds:09d}"[: 20 + digits] + "Z"


def from_timestamp(text: str) -> float:
    """Seconds since the epoch; raises ValueError. Without a zone it is UTC."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = datetime.fromisoformat(text + "Z")
    return moment.timestamp()


class DateHeader:
    """The `Date` header, written once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._value = b""

    def at(self, seconds: float) -> bytes:
        """The header's value at a time."""
        second = int(seconds)
        if second != self._second:
            self._second = second
            self._value = formatdate(second, usegmt=True).encode()
        return self._value
