"""Monotonic clock that includes the time in which the machine sleeps."""

import time

import anyio

_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
"""Clock that includes sleep: on Linux CLOCK_BOOTTIME, on macOS CLOCK_MONOTONIC, where
`time.monotonic` does not. Windows has neither, and its `time.monotonic` includes sleep."""


def steady_time() -> float:
    """Return seconds since an arbitrary moment; they never go back, and include sleep."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


SLEEP_POLL_SECONDS = 10.0
"""Interval at which `steady_sleep` reads the clock, which jumps when the machine wakes up."""


async def steady_sleep(seconds: float) -> None:
    """Sleep for `seconds` of the steady clock; the event loop's clock may stop during sleep."""
    end = steady_time() + seconds
    while (left := end - steady_time()) > 0:  # noqa: ASYNC110 - no event signals a jump
        await anyio.sleep(min(left, SLEEP_POLL_SECONDS))
