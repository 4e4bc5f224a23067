"""Release of freed memory to the system."""

import ctypes
from collections.abc import Callable
from functools import cache

from replicate_mcp.platform.system import IS_LINUX


@cache
def memory_trimmer() -> Callable[[int], int] | None:
    """Return glibc's `malloc_trim`; None where freed memory is released without it.

    It takes some milliseconds per gigabyte: call it in a thread, with 0.
    """
    if not IS_LINUX:
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
    return trim
