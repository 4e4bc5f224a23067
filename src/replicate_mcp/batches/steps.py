"""What all work on batches stands on: steps at the backend that may not be lost, and background."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from replicate_mcp.batches.backend import Backend
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores.holder import Holder
from replicate_mcp.semaphores.permits import Room

T = TypeVar("T")

log = logging.getLogger(__name__)

TRY_AGAIN_SECONDS = 1.0


class Steps:
    """A process's steps at its backend, and the background in which its batches run."""

    def __init__(self, backend: Backend, holder: Holder, group: TaskGroup) -> None:
        self.backend = backend
        self.holder = holder
        self._group = group

    async def surely(self, step: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """A step that may not be lost: what runs is followed to its end, and its result kept."""
        while True:
            try:
                return await step(*arguments)
            except BackendUnavailable as error:
                log.error("%s Trying again.", error)
                await anyio.sleep(TRY_AGAIN_SECONDS)

    async def hand_on(self, step: Callable[..., Awaitable[Room]], *arguments: Any) -> None:
        """A step that may not be lost, and whose room goes to this process's batches."""
        self.holder.accept(await self.surely(step, *arguments))

    def spawn(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Do something in the background, for as long as the process lives."""
        self._group.start_soon(self._guarded, work, *arguments)

    async def _guarded(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """No fault of one batch's may end the others': it is logged, and its batch goes on."""
        try:
            await work(*arguments)
        except Exception:
            log.exception("a batch's work failed")
