"""CPU-bound work whose time grows with its input, kept off the event loop.

Parsing, validating, hashing and serialising take milliseconds for an ordinary request, and seconds
for the largest one allowed. Small work runs in place. Large work runs in a worker thread, one call
at a time per process, so that the event loop and small requests are never blocked for long.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")

INLINE_BYTES = 64 * 1024
"""Maximum input, in bytes, of work done on the event loop; it takes a few milliseconds."""

VALUE_BYTES = 32
"""Bytes counted for each value of a JSON document, besides the characters of its text."""

MAX_CONCURRENT_READS = 4
"""Batches read and encoded concurrently; each may take 20 MB until it is encoded."""

SWITCH_INTERVAL_SECONDS = 0.0005
"""Value for `sys.setswitchinterval`, in place of the default 5 ms.

Each time the event loop releases the interpreter, as it does with every piece it sends, a busy
worker thread keeps it for this long.
"""

_limiter: RunVar[anyio.CapacityLimiter] = RunVar("replicate_mcp.cpu_bound")
_read_limiter: RunVar[anyio.CapacityLimiter] = RunVar("replicate_mcp.read_limiter")


async def run_cpu_bound(work: Callable[[], T], *, size_bytes: int) -> T:
    """Return `work()`, called in a worker thread if `size_bytes` exceeds `INLINE_BYTES`.

    Threaded calls run one at a time; others wait. Cancelling the caller does not interrupt work in
    a thread, but no longer waits for it.
    """
    if size_bytes <= INLINE_BYTES:
        return work()
    return await anyio.to_thread.run_sync(work, limiter=_get(_limiter, 1), abandon_on_cancel=True)


def json_size(value: object, stop_at: int = INLINE_BYTES + 1) -> int:
    """Estimate the size of a JSON value in bytes; stop counting at `stop_at` bytes."""
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
    """Return the first-come, first-served limiter for reading and encoding whole batches."""
    return _get(_read_limiter, MAX_CONCURRENT_READS)


def _get(variable: RunVar[anyio.CapacityLimiter], total: int) -> anyio.CapacityLimiter:
    try:
        return variable.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(total)
        variable.set(limiter)
        return limiter
