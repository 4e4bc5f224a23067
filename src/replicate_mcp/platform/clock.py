"""One steady clock, which goes on while the machine sleeps."""

import time

import anyio

_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
"""Linux has CLOCK_BOOTTIME. On macOS CLOCK_MONOTONIC goes on in sleep, and `time.monotonic` does
not. Windows has neither, and its `time.monotonic` goes on in sleep."""


def steady_time() -> float:
    """Return seconds from an arbitrary moment; they never go back, and count sleep."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


SLEEP_POLL_SECONDS = 10.0
"""How often `steady_sleep` looks at the clock, which may have jumped."""


async def steady_sleep(seconds: float) -> None:
    """Sleep for `seconds` of the steady clock; the event loop's clock stops with the machine."""
    end = steady_time() + seconds
    while (left := end - steady_time()) > 0:  # noqa: ASYNC110 - nothing tells of a jump
        await anyio.sleep(min(left, SLEEP_POLL_SECONDS))
