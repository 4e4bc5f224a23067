"""Return memory to the system once large requests have ended.

glibc keeps what was freed: 500 MB were measured after 200 clients had sent the largest bodies.
"""

import asyncio

from replicate_mcp.platform.memory import memory_trimmer

DELAY_SECONDS = 5.0
"""After the end of a large request; one call serves all that end until then."""


class FreeMemory:
    """Returns memory, in a thread: that takes some milliseconds a gigabyte."""

    def __init__(self) -> None:
        self._is_scheduled = False

    def return_soon(self) -> None:
        """Return what is free in a while; without effect on systems that do it by themselves."""
        if self._is_scheduled or memory_trimmer() is None:
            return
        self._is_scheduled = True
        asyncio.get_running_loop().call_later(DELAY_SECONDS, self._return)

    def _return(self) -> None:
        self._is_scheduled = False
        trim = memory_trimmer()
        assert trim is not None
        asyncio.get_running_loop().run_in_executor(None, trim, 0)
