"""Asking Replicate again what creates nothing, where an answer did not come at once."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from replicate_mcp.replicate_api.exceptions import (
    ApiStatusError,
    ConnectionMisconfigured,
    ReplicateApiError,
    ResponseLost,
)

T = TypeVar("T")

RETRY_DELAYS_SECONDS = (0.3, 1.0)
"""Pauses before a question that was not answered is asked again."""

TIMEOUT_SECONDS = 20.0
"""After which it counts as not answered, whatever is still under way: hosts wait for a minute."""


async def retry_read(question: Callable[[], Awaitable[T]]) -> T:
    """The answer to a question that creates nothing.

    Raises:
        Fault: there is none, after all pauses, or Replicate refuses to give one.
    """
    with anyio.move_on_after(TIMEOUT_SECONDS):
        for pause in RETRY_DELAYS_SECONDS:
            try:
                return await question()
            except ReplicateApiError as fault:
                if not _may_pass(fault):
                    raise
            await anyio.sleep(pause)
        return await question()
    raise ResponseLost(f"not within {TIMEOUT_SECONDS:.0f} s")


def _may_pass(fault: ReplicateApiError) -> bool:
    if isinstance(fault, ConnectionMisconfigured):
        return False
    return not isinstance(fault, ApiStatusError) or fault.status == 429 or fault.status >= 500
