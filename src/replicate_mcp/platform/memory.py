"""Garbage collection, and the return of freed memory to the system."""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from replicate_mcp.platform.system import IS_LINUX

LARGE_BLOCK_BYTES = 256 * 1024
"""Size from which `return_large_blocks` returns each freed block."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""From glibc's malloc.h."""


@contextmanager
def collection_deferred() -> Iterator[None]:
    """Run the block without garbage collection, and exempt what it made from later collections.

    For imports: collections take a fifth of their time and free next to nothing, since modules
    stay.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def return_large_blocks() -> None:
    """Have glibc return each large block to the system as soon as it is freed, from now on.

    By default it keeps more with each large block that is freed: up to 64 MB for each thread that
    has handled one. No-op with another C library.
    """
    mallopt: Callable[[int, int], int] | None = _glibc("mallopt")
    if mallopt:
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(parameter, LARGE_BLOCK_BYTES)


class FreeMemory:
    """Scheduled return of freed memory, in a thread: it takes some milliseconds per gigabyte.

    Args:
        delay_seconds: seconds between `return_soon` and the return; one return serves all calls
            until then.
    """

    def __init__(self, delay_seconds: float) -> None:
        self._delay_seconds = delay_seconds
        self._is_scheduled = False

    def return_soon(self) -> None:
        """Schedule the return of freed memory; no-op where freed memory is returned without it."""
        if self._is_scheduled or (trim := memory_trimmer()) is None:
            return
        import asyncio

        self._is_scheduled = True
        asyncio.get_running_loop().call_later(self._delay_seconds, self._return, trim)

    def _return(self, trim: Callable[[int], int]) -> None:
        self._is_scheduled = False
        # Not a pool's thread, which would stay.
        threading.Thread(target=trim, args=(0,), daemon=True).start()


@cache
def memory_trimmer() -> Callable[[int], int] | None:
    """Return glibc's `malloc_trim`; None where freed memory is returned without it.

    It takes some milliseconds per gigabyte: call it in a thread, with 0.
    """
    trim: Callable[[int], int] | None = _glibc("malloc_trim")
    return trim


def share_one_arena() -> None:
    """Make all threads that start from now on allocate from one arena of glibc's.

    By default each thread gets its own, up to eight a core, and each keeps memory between blocks
    in use: 100 MB instead of 40 were measured after 200 clients had sent the largest bodies. The
    interpreter's lock makes their allocations take turns anyway. The main thread keeps an arena
    of its own, so that it does not wait while `malloc_trim` works on that of the threads.
    """
    mallopt: Callable[[int, int], int] | None = _glibc("mallopt")
    if mallopt:
        mallopt(_M_ARENA_MAX, 2)


def _glibc(name: str) -> Any:
    """Return a function of glibc; None with another C library."""
    if not IS_LINUX:
        return None
    import ctypes

    try:
        library = ctypes.CDLL(None)
        return library.gnu_get_libc_version and getattr(library, name)
    except (OSError, AttributeError):
        return None
