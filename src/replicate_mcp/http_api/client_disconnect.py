"""Cancellation of a request's handler when its client disconnects."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from fastapi import Request


@contextmanager
def cancel_on_disconnect(request: Request) -> Iterator[None]:
    """Cancel the block when the client disconnects; the batch that it waits for goes on.

    Raises:
        HTTPException: receiving from the client failed, for example because its body is refused.
    """
    with anyio.CancelScope() as waiting:

        def break_off(ended: asyncio.Task[None]) -> None:
            if not ended.cancelled():
                waiting.cancel()

        gone = asyncio.create_task(_disconnected(request))
        gone.add_done_callback(break_off)
        try:
            yield
        finally:
            gone.cancel()
    if waiting.cancelled_caught:
        gone.result()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
