"""Signals that ask a process to end."""

import asyncio
import signal
import sys
from types import FrameType

import anyio

END_SIGNALS = [signal.SIGTERM, signal.SIGINT]
"""On Windows Ctrl-C is SIGINT; Ctrl-Break and closing the console are SIGBREAK."""
if sys.platform == "win32":
    END_SIGNALS.append(signal.SIGBREAK)


async def wait_for_end_signal() -> None:
    """Return when a signal asks this process to end; later signals are ignored.

    Call it in the main thread. It uses `signal.signal`, since Windows' event loop has no signal
    handlers of its own. Cancelling it restores the previous handlers.
    """
    loop, received = asyncio.get_running_loop(), anyio.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(received.set)

    previous = [(each, signal.signal(each, handle)) for each in END_SIGNALS]
    try:
        await received.wait()
    except BaseException:
        for each, handler in previous:
            signal.signal(each, handler)
        raise
