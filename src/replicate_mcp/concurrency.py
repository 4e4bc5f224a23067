"""Concurrent calls whose first exception is raised as it is, not inside a group."""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def for_each(items: Iterable[T], work: Callable[[T], Coroutine[Any, Any, None]]) -> None:
    """Call `work` for every item concurrently, and wait for all calls.

    If a call fails, the others are cancelled, and the first exception is raised.
    """
    try:
        async with anyio.create_task_group() as group:
            for item in items:
                group.start_soon(work, item)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
