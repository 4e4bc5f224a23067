"""Run work whose time grows with its input without holding up the event loop.

Parsing, validating, hashing and serialising take milliseconds for an ordinary request, and seconds
for the largest one allowed. What is small is done in place; what is large goes to a worker thread,
one at a time in a process, so that the loop and small requests always get their turn.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")

INLINE_BYTES = 64 * 1024
"""Work on at most so much is done on the event loop: it takes a few milliseconds."""

VALUE_BYTES = 32
"""What a value of a JSON document counts as, beside the characters of its text."""

MAX_CONCURRENT_READS = 4
"""Batches that are read and encoded at the same time; each may take 20 MB until it is encoded."""

SWITCH_INTERVAL_SECONDS = 0.0005
"""For `sys.setswitchinterval`, in place of 5 ms: for so long a thread keeps the interpreter from
the event loop, each time that the loop has given it away, as it does with every piece it sends."""

_limiter: RunVar[anyio.CapacityLimiter] = RunVar("replicate_mcp.cpu_bound")
_read_limiter: RunVar[anyio.CapacityLimiter] = RunVar("replicate_mcp.read_limiter")


async def run_cpu_bound(work: Callable[[], T], *, size_bytes: int) -> T:
    """Return `work()`, called in a worker thread where `size_bytes` is over `INLINE_BYTES`.

    One call at a time runs in a thread; further ones wait. Work in a thread is not interrupted
    when its caller is cancelled, but nobody waits for it any longer.
    """
    if size_bytes <= INLINE_BYTES:
        return work()
    return await anyio.to_thread.run_sync(work, limiter=_get(_limiter, 1), abandon_on_cancel=True)


def json_size(value: object, stop_at: int = INLINE_BYTES + 1) -> int:
    """Estimate the size in bytes of a JSON value; walks no further than `stop_at` bytes."""
    size = 0
    left: list[Any] = [value]
    while left and size < stop_at:
        each = left.pop()
        size += VALUE_BYTES
        if isinstance(each, str):
            size += len(each)
        elif isinstance(each, Mapping):
            if len(each) * VALUE_BYTES > stop_at:
                return stop_at
            left += each
            left += each.values()
        elif isinstance(each, list | tuple):
            if len(each) * VALUE_BYTES > stop_at:
                return stop_at
            left += each
    return size


def read_limiter() -> anyio.CapacityLimiter:
    """Return what to hold while a whole batch is read and encoded, first come first served."""
    return _get(_read_limiter, MAX_CONCURRENT_READS)


def _get(variable: RunVar[anyio.CapacityLimiter], total: int) -> anyio.CapacityLimiter:
    try:
        return variable.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(total)
        variable.set(limiter)
        return limiter
