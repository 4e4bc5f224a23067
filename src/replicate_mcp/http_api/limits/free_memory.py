"""Return of freed memory to the system after large requests.

glibc keeps freed memory: 500 MB were measured after 200 clients had sent the largest bodies.
"""

import asyncio

from replicate_mcp.platform.memory import memory_trimmer

DELAY_SECONDS = 5.0
"""Seconds after the end of a large request; one call covers all that end until then."""


class FreeMemory:
    """Scheduled return of freed memory, in a thread: it takes some milliseconds per gigabyte."""

    def __init__(self) -> None:
        self._is_scheduled = False

    def return_soon(self) -> None:
        """Schedule the return of freed memory; no-op on systems that return it themselves."""
        if self._is_scheduled or memory_trimmer() is None:
            return
        self._is_scheduled = True
        asyncio.get_running_loop().call_later(DELAY_SECONDS, self._return)

    def _return(self) -> None:
        self._is_scheduled = False
        trim = memory_trimmer()
        assert trim is not None
        asyncio.get_running_loop().run_in_executor(None, trim, 0)
