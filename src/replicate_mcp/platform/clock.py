"""One steady clock, which goes on while the machine sleeps."""

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
"""Linux has CLOCK_BOOTTIME. On macOS CLOCK_MONOTONIC goes on in sleep, and `time.monotonic` does
not. Windows has neither, and its `time.monotonic` goes on in sleep."""


def steady_time() -> float:
    """Return seconds from an arbitrary moment; they never go back, and count sleep."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
