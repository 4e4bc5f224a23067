"""Steps at a backend that may not be lost, and the background in which a process's work goes on."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores.holder import Holder
from replicate_mcp.semaphores.permits import Room

T = TypeVar("T")

log = logging.getLogger(__name__)

TRY_AGAIN_SECONDS = 1.0


class SureSteps:
    """A process's steps at its backend, done however long that cannot be used."""

    def __init__(self, holder: Holder, group: TaskGroup) -> None:
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
        """A step that may not be lost, and whose room goes to this process's entries."""
        self.holder.accept(await self.surely(step, *arguments))

    async def now_or_later(self, step: Callable[..., Awaitable[Room]], *arguments: Any) -> None:
        """The same, but where it cannot be done now, nobody waits for it."""
        try:
            self.holder.accept(await step(*arguments))
        except BackendUnavailable as error:
            log.error("%s Trying again.", error)
            self.spawn(self.hand_on, step, *arguments)

    def spawn(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Do something in the background, for as long as the process lives."""
        self._group.start_soon(self._guarded, work, *arguments)

    async def _guarded(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """No fault in one's work may end the others': it is logged, and theirs goes on."""
        try:
            await work(*arguments)
        except Exception:
            log.exception("work in the background failed")
