"""Retries of calls to Replicate that create nothing."""

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
"""Pauses before each retry of a failed read."""

TIMEOUT_SECONDS = 20.0
"""Total timeout of a read with its retries, whatever is still in flight: MCP hosts wait for a
minute."""


async def retry_read(question: Callable[[], Awaitable[T]]) -> T:
    """Call `question`, which creates nothing, and retry transient failures.

    Raises:
        ReplicateApiError: the last attempt failed, or the failure is permanent.
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
