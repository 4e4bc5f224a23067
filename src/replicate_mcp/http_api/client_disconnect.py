"""How long a request waits: as its client does."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from fastapi import Request


@contextmanager
def cancel_on_disconnect(request: Request) -> Iterator[None]:
    """Break the block off once the client has gone; what it waits for goes on.

    Raises:
        HTTPException: instead of its end, there came something that is refused.
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
